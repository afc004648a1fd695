"""Read the documents of ir_datasets (ir:NAME; MacAvaney et al. 2021, arXiv 2103.02280)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from typing import Any

from raycol.data.files import IR_DATASETS
from raycol.data.readers.reader import CorpusFile, InferNames, Position, Reader, Rows, Select
from raycol.errors import InputError, reason_of


class IrDatasetsReader(Reader):
    """Reader of datasets of ir_datasets, which the location names, not a suffix.

    A record is the id and the default text of a document: the text of some collections, and the title, the headings
    and the body of others.
    """

    suffixes = ()
    is_table = True
    has_columns = True

    def rows(self, file: CorpusFile, select: Select, infer_names: InferNames, start: Position) -> Rows:
        """See `Reader`."""
        names = select(["doc_id", "text"])
        with ir_errors(file.uri):
            documents = _documents_from(open_ir_dataset(file.uri), start.offset)
            for number, document in enumerate(documents, start=start.offset):
                record = {"doc_id": document.doc_id, "text": document.default_text()}
                yield Position(number, number + 1), {name: record[name] for name in names}

    def count(self, file: CorpusFile) -> int:
        """See `Reader`."""
        with ir_errors(file.uri):
            dataset = open_ir_dataset(file.uri)
            count = dataset.docs_count()
            return int(count) if count is not None else sum(1 for _ in dataset.docs_iter())

    def sample(self, file: CorpusFile, offsets: Sequence[int]) -> list[Position]:
        """See `Reader`."""
        return [Position(row, row + 1) for row in offsets]

    def state(self, file: CorpusFile) -> str:
        """See `Reader`. Collections of ir_datasets do not change."""
        return file.uri


def _documents_from(dataset: Any, offset: int) -> Iterator[Any]:
    """Documents from a position on.

    The store of documents that ir_datasets keeps on disk finds a position at once. Whoever reads from the start builds
    it; workers that start later, side by side, use it if it is there, since two processes cannot build one.
    """
    store = dataset.docs_store()
    if not offset and hasattr(store, "build"):
        store.build()
    documents: Any = dataset.docs_iter()
    if not offset:
        return iter(documents)
    is_built = not hasattr(store, "built") or store.built()
    return iter(documents[offset:] if is_built else islice(documents, offset, None))


@lru_cache(maxsize=4)
def open_ir_dataset(uri: str) -> Any:
    """Open a dataset by its location, ir:NAME.

    Raises:
        InputError: ir_datasets is not installed or has no such dataset, or the dataset has no documents.
    """
    name = uri.removeprefix(IR_DATASETS)
    try:
        import ir_datasets
    except ImportError:
        raise InputError(f"{uri}: needs ir_datasets; install it with pip install 'raycol[ir]'") from None
    try:
        dataset = ir_datasets.load(name)
    except KeyError:
        raise InputError(f"{uri}: ir_datasets has no {name!r}; expected a name such as ir:beir/scifact/test") from None
    if not dataset.has_docs():
        raise InputError(f"{uri}: has no documents; expected a name such as ir:beir/scifact/test")
    return dataset


@contextmanager
def ir_errors(uri: str) -> Iterator[None]:
    """Turn the errors of a download or of a damaged file into an `InputError`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{uri}: cannot be read ({reason_of(error, 200)})") from None
