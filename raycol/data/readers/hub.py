"""Read Hugging Face datasets: from the hub (hf:NAME), or from a folder written by `save_to_disk`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from raycol.data.files import HUB, folder_state, reading
from raycol.data.readers.parquet import rows_of
from raycol.data.readers.reader import CorpusFile, InferNames, Position, Reader, Rows, Select
from raycol.errors import InputError, reason_of

if TYPE_CHECKING:
    import datasets

_ROWS = 512


class DatasetReader(Reader):
    """Reader of datasets, which the location names, not a suffix."""

    suffixes = ()
    is_table = True
    has_columns = True

    def rows(self, file: CorpusFile, select: Select, infer_names: InferNames, start: Position) -> Rows:
        """See `Reader`. Raises `InputError` also if there are several splits and none is selected."""
        dataset = open_dataset(file)
        names = select(dataset.column_names)
        if not names:  # selecting no columns from a table would drop its rows
            yield from ((Position(number, number + 1), {}) for number in range(start.offset, len(dataset)))
            return
        table = dataset.select_columns(names).with_format("arrow")
        for first in range(start.offset, len(dataset), _ROWS):
            with reading(file):
                part = table[first : first + _ROWS]
                part.validate(full=True)  # reading follows the offsets of a damaged file unchecked
            for batch in part.combine_chunks().to_batches():
                yield from rows_of(batch, file, first)
                first += batch.num_rows

    def count(self, file: CorpusFile) -> int:
        """See `Reader`."""
        return len(open_dataset(file))

    def sample(self, file: CorpusFile, offsets: Sequence[int]) -> list[Position]:
        """See `Reader`."""
        return [Position(row, row + 1) for row in offsets]

    def state(self, file: CorpusFile) -> str:
        """See `Reader`."""
        # The fingerprint of a hub dataset covers the configuration and the data files that the builder resolved. That
        # of a folder hashes the arguments of `map`, so it misses a function that returns other embeddings.
        is_hub = file.uri.startswith(HUB)
        state = open_dataset(file)._fingerprint if is_hub else folder_state(file.uri, "*")
        return f"{file.subset} {file.split} {state}"


def open_dataset(file: CorpusFile) -> datasets.Dataset:
    """Open one split of a dataset. Cached, since a build reads many parts of it."""
    if file.uri.startswith(HUB):
        return _open_dataset(file, "")
    if file.subset:
        raise InputError(f"{file}: a folder has no subsets; leave `subset=` out")
    return _open_dataset(file, folder_state(file.uri, "*.json"))  # reopen if the folder was overwritten


def subsets_of(uri: str) -> tuple[str, ...]:
    """Subsets of a hub dataset; empty if they cannot be listed."""
    import datasets

    try:
        return tuple(datasets.get_dataset_config_names(uri.removeprefix(HUB)))
    except Exception:  # opening the dataset reports the error
        return ()


@lru_cache(maxsize=4)
def _open_dataset(file: CorpusFile, state: str) -> datasets.Dataset:
    import datasets

    try:
        if file.uri.startswith(HUB):
            loaded = datasets.load_dataset(file.uri.removeprefix(HUB), file.subset)
        else:
            loaded = datasets.load_from_disk(file.uri)
    except Exception as error:  # any error of the hub client, Arrow or the file system
        raise InputError(f"{file}: cannot be opened ({reason_of(error, 200)})") from None
    if isinstance(loaded, datasets.Dataset):
        if file.split:
            raise InputError(f"{file}: has no splits; leave `split=` out")
        return loaded
    splits = list(loaded)
    split = file.split or (splits[0] if len(splits) == 1 else None)
    if split not in splits:
        problem = f"no split {file.split!r}" if file.split else "several splits"
        raise InputError(f"{file}: {problem}; choose one of {', '.join(splits)} with `split=`")
    return loaded[split]
