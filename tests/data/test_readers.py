"""The protocol of readers: what every format provides, and a format that is plugged in."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from raycol.data import CorpusFile, Example, ExampleSource, Fields, Passage, corpus_files, read_corpus, read_examples
from raycol.data.files import open_file
from raycol.data.locations import folder_entries
from raycol.data.readers.parquet import rows_of
from raycol.data.readers.reader import READERS, START, InferNames, Position, Reader, Rows, Select
from raycol.errors import InputError
from raycol.indexing.plan import plan_build, read_part
from raycol.indexing.sampling import sample_corpus
from tests.data.test_formats import PASSAGES, RECORDS, WRITERS, save_dataset, write


class ArrowReader(Reader):
    """Reader of Arrow's IPC files."""

    suffixes = (".arrow", ".feather")
    is_table = True
    has_columns = True

    def rows(self, file: CorpusFile, select: Select, infer_names: InferNames, start: Position) -> Rows:
        with open_file(file.uri) as raw:
            table = pa.ipc.open_file(raw).read_all()
        first = start.offset
        for batch in table.select(select(table.column_names)).slice(first).to_batches():
            yield from rows_of(batch, file, first)
            first += batch.num_rows

    def count(self, file: CorpusFile) -> int:
        with open_file(file.uri) as raw:
            return int(pa.ipc.open_file(raw).count_rows())

    def sample(self, file: CorpusFile, offsets: Sequence[int]) -> list[Position]:
        return [Position(offset, offset + 1) for offset in offsets]


@pytest.fixture
def arrow() -> Iterator[None]:
    """Registers another format for the duration of a test."""
    READERS["arrow"] = ArrowReader()
    yield
    del READERS["arrow"]


def save_arrow(path: Path, columns: dict[str, list[str]]) -> Path:
    table = pa.table(columns)
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)
    return path


@pytest.mark.usefixtures("arrow")
def test_a_corpus_in_a_plugged_in_format_is_listed_sampled_and_planned(tmp_path: Path) -> None:
    texts = {f"d{number}": f"text {number}" for number in range(5000)}
    path = save_arrow(tmp_path / "c.arrow", {"id": [*texts], "text": [*texts.values()]})
    files = corpus_files(str(tmp_path))
    assert files == [CorpusFile(str(path), "arrow")]
    assert files[0].where(3) == f"{path}, row 3"
    assert {passage.id: passage.text for passage in read_corpus(path)} == texts
    sample = sample_corpus(files, Fields(), "fail")
    assert sample.records == 5000
    assert [passage.id for _, passage in sample.passages][-1] > "d4"
    plan = plan_build(files, Fields(), 2000)
    assert [passage.id for part in plan.parts for _, passage in read_part(part, Fields())] == [*texts]
    with pytest.raises(InputError, match=r"no column 'x' for the text; it has id, text"):
        list(read_corpus(path, fields=Fields(text="x")))


@pytest.mark.usefixtures("arrow")
def test_examples_and_their_texts_are_read_in_a_plugged_in_format(tmp_path: Path) -> None:
    path = save_arrow(tmp_path / "train.feather", {"query": ["q"], "positive_id": ["2"], "negative_id": ["1"]})
    save_arrow(tmp_path / "documents.arrow", {"id": ["1", "2"], "text": ["one", "two"]})
    assert list(folder_entries(str(tmp_path)) or {}) == ["documents", "train"]
    (example,) = read_examples(ExampleSource(path=str(tmp_path)))
    assert example == Example(f"{path}, row 1", "q", ("two", "one"), None, None, ("2", "1"))


def test_messages_name_the_formats(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    expected = ".jsonl, .csv or .tsv (also .gz, .zst, .bz2, .xz), .parquet or .npz"
    path = write(tmp_path / "c.arrow", "")
    with pytest.raises(InputError) as error:
        corpus_files(str(path))
    assert str(error.value) == f"{path}: unknown format; expected {expected}"
    request.getfixturevalue("arrow")
    with pytest.raises(InputError) as error:
        corpus_files(str(write(tmp_path / "c.txt", "")))
    assert str(error.value).endswith(expected.replace(".parquet or .npz", ".parquet, .npz or .arrow"))


@pytest.mark.parametrize("name", [*WRITERS, "saved"])
def test_every_reader_counts_and_starts_where_it_samples(tmp_path: Path, name: str) -> None:
    path = (
        save_dataset(tmp_path / name, RECORDS) if name == "saved" else write(tmp_path / name, WRITERS[name](RECORDS))
    )
    (file,) = corpus_files(str(path))
    rows = list(file.rows())
    assert [Passage(**{key: row[key] for key in ("id", "title", "text")}) for _, row in rows] == PASSAGES
    assert file.reader.count(file) == (len(RECORDS) if file.is_table else path.stat().st_size)
    (start,) = file.reader.sample(file, [1])
    offsets = [position.offset for position, _ in rows]
    first = 0 if start == START else offsets.index(start.offset)
    assert [row["id"] for _, row in file.rows(start=start)] == [row["id"] for _, row in rows[first:]]
    assert file.reader.state(file) == file.reader.state(file)
