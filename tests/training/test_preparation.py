"""Reading by column, and the shards of a training set."""

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from raycol.data.examples import ExampleSource
from raycol.data.sources import OpenSource
from raycol.errors import InputError, RaycolError
from raycol.storage import open_store
from raycol.training import TrainConfig, preparation, reading
from raycol.training.dataset import PreparedSet, TrainingSet
from raycol.training.example_table import join
from raycol.training.preparation import ReadWorker, write_training_set
from raycol.training.prepare import make_plan
from raycol.training.reading import ReadSettings, SliceCounts, plan_parts, read_slice

TEXTS = ["rain", "a storm", "the sea", "　snow ", "ñandú", "loaf\x1f", "x" * 300, "🎻 choir"]
N = 40


def text(number: int) -> str:
    return f"{TEXTS[number % len(TEXTS)]} {number // 9}"


def several(number: int) -> list[str]:
    return [text(number + one) for one in range(number % 4)]


ROWS = range(N)
QUERY, POSITIVE = [text(row) for row in ROWS], [text(3 * row + 1) for row in ROWS]
MANY = [several(row) for row in ROWS]
THREE = [[text(row + one) for one in range(3)] for row in ROWS]
TWO = [row[:2] for row in THREE]
SCORES = [[float(row % 5), row % 3 - 1.5, 7 / (row + 1)] for row in ROWS]
INVALID = pa.array([b"\xff", *map(str.encode, POSITIVE[1:])]).view(pa.string())
BLANK = [*POSITIVE[:-1], "　\x1f"]

# Columns of a file, and whether they are taken by column.
LAYOUTS = {
    "pairs": ({"query": QUERY, "positive": POSITIVE}, True),
    "other names": ({"Question": pa.array(QUERY, pa.large_string()), "answer": POSITIVE}, True),
    "dictionary": ({"query": pa.array(QUERY).dictionary_encode(), "positive": POSITIVE}, True),
    "triplets": ({"anchor": QUERY, "positive": POSITIVE, "negative": [row[0] for row in THREE]}, True),
    "missing negatives": (
        {"query": QUERY, "positive": POSITIVE, "negative_2": QUERY, "negative_1": [None, *QUERY[1:]]},
        True,
    ),
    "list": ({"query": QUERY, "positive": POSITIVE, "negatives": [None, *MANY[1:]]}, True),
    "fixed list": ({"query": QUERY, "positive": POSITIVE, "negatives": pa.array(TWO, pa.list_(pa.string(), 2))}, True),
    "ids": (
        {"query_id": [None, *map(str, ROWS[1:])], "query": QUERY, "positive_id": list(ROWS), "positive": POSITIVE,
         "negative_ids": [[str(one) for one in range(len(many))] for many in MANY], "negatives": MANY},
        True,
    ),
    "scored": ({"query": QUERY, "documents": THREE, "scores": SCORES}, True),
    "scored positive": ({"query": QUERY, "positive": POSITIVE, "negatives": TWO, "scores": SCORES}, True),
    "scored, varying": ({"query": QUERY, "documents": [[text(row), *many] for row, many in enumerate(MANY)],
                         "scores": [[1.0] * (1 + len(many)) for many in MANY]}, False),
    "margins": ({"query": QUERY, "positive": POSITIVE, "negatives": TWO, "score": [row[:2] for row in SCORES]}, False),
    "positives": ({"query": QUERY, "pos": [many or ["one"] for many in MANY], "neg": THREE}, False),
    "serialised": ({"query": QUERY, "positive": POSITIVE, "negatives": [str(many) for many in MANY]}, False),
    "blank": ({"query": QUERY, "positive": BLANK}, False),
    "missing": ({"query": [None, *QUERY[1:]], "positive": POSITIVE}, False),
    "not UTF-8": ({"query": QUERY, "positive": INVALID}, False),
    "empty id": ({"query_id": ["", *QUERY[1:]], "query": QUERY, "positive": POSITIVE}, False),
    "few ids": ({"query": QUERY, "positive_id": QUERY, "positive": POSITIVE, "negatives": MANY, "negative_ids": TWO},
                False),
    "NaN": ({"query": QUERY, "documents": THREE, "scores": [[1.0, float("nan"), 2.0], *SCORES[1:]]}, False),
    "by position": ({"a": QUERY, "b": POSITIVE}, False),
}  # fmt: skip


def read(path: Path, settings: ReadSettings) -> tuple[list[dict], dict]:
    """The examples of a file, with their texts, and the counts."""
    opened = OpenSource(ExampleSource(path=str(path)), settings.on_error, [])
    counts = SliceCounts()
    ((part,),), _ = plan_parts([opened])
    tables = [*read_slice(part, opened, settings, counts)]
    if not tables:
        return [], counts.model_dump()
    table = join(tables)
    texts = table.texts.to_pylist()
    rows = [
        row | {"query": texts[row["query"]], "documents": [texts[one] for one in row["documents"]]}
        for row in table.examples.to_pylist()
    ]
    return rows, counts.model_dump()


@pytest.mark.parametrize("n_ways", [None, 2])
@pytest.mark.parametrize("distils", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_columns_give_the_examples_of_rows(
    tmp_path: Path, layout: str, distils: bool, n_ways: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns, is_plain = LAYOUTS[layout]
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    take, taken = reading.take_examples, []
    monkeypatch.setattr(reading, "take_examples", lambda *values: taken.append(take(*values)) or taken[-1])
    settings = ReadSettings("skip", n_ways, distils, "the objective")
    by_column = read(tmp_path / "a.parquet", settings)
    assert [one is not None for one in taken] == [is_plain and distils == ("scores" in columns)]
    monkeypatch.setattr(reading, "take_examples", lambda *_: None)
    assert by_column == read(tmp_path / "a.parquet", settings)


@pytest.mark.slow
def test_arrow_and_python_agree_on_white_space() -> None:
    letters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code <= 0xDFFF]
    assert pc.utf8_is_space(pa.array(letters)).to_pylist() == [*map(str.isspace, letters)]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts and shards of a few examples."""
    monkeypatch.setattr(reading, "_PART", 3000)
    monkeypatch.setattr(preparation, "_SHARD", 6000)


def config_of(folder: Path, n: int = 600, **values) -> TrainConfig:
    """Two sources, one of them of several shards; three examples a query."""
    rows = range(n)
    columns = {"query": [f"query {row % (n // 3)}" for row in rows], "positive": [f"positive {row}" for row in rows]}
    pq.write_table(pa.table(columns), folder / "large.parquet", row_group_size=50)
    (folder / "small.jsonl").write_text('{"query": "query 1", "positive": "positive 1", "negative": "no"}\n' * 4)
    data = [str(folder / name) for name in ("large.parquet", "small.jsonl")]
    return TrainConfig.model_validate({"model": "m", "data": data, "out": folder / "m", **values})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("small")
def test_shards_have_each_example_once_and_each_query_in_one_shard(tmp_path: Path) -> None:
    prepared = write_training_set(config_of(tmp_path), tmp_path / "set")
    examples = TrainingSet(tmp_path / "set")
    assert [shard.source for shard in prepared.shards][-2:] == [0, 1]
    assert len(prepared.shards) > 5
    rows = [examples[number] for number in range(len(examples))]
    large = [row for number, row in enumerate(rows) if examples.source(number) == 0]
    assert Counter(row.documents[0] for row in large) == Counter(f"positive {row}" for row in range(600))
    shards = {(row.query, examples.shard_of(number)) for number, row in enumerate(rows[:600])}
    assert len(shards) == 200
    assert {examples.where(number) for number in range(600)} == {
        f"{tmp_path}/large.parquet, row {row}" for row in range(1, 601)
    }
    # Ids are the same for the same text, in any shard and role.
    ids = {(text, id_) for row in rows for text, id_ in zip(row.documents, row.document_ids, strict=True)}
    ids |= {(row.query, row.query_id) for row in rows}
    assert len(ids) == len(dict(ids)) == len({id_ for _, id_ in ids}) == 801


@pytest.mark.usefixtures("small")
def test_each_epoch_over_shards_has_every_example_once_in_a_new_order(tmp_path: Path) -> None:
    both = config_of(tmp_path, batch_size=4, allow_duplicates=True)
    config = both.model_copy(update={"data": both.data[:1]})
    prepared = write_training_set(config, tmp_path / "set")
    examples = TrainingSet(tmp_path / "set")
    batches = [*make_plan(config, prepared.sources, examples).batches(300)]
    first, second = np.concatenate(batches[:150]), np.concatenate(batches[150:])
    assert sorted(first) == sorted(second) == [*range(600)]
    assert first.tolist() != second.tolist()
    # A batch is from a shard, or from the end of one and the beginning of another.
    assert max(len({examples.shard_of(int(one)) for one in batch}) for batch in batches) == 2


class FailedError(RaycolError):
    pass


@pytest.mark.usefixtures("small")
def test_an_interrupted_preparation_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(tmp_path)
    write_training_set(config, tmp_path / "whole")
    compute, computed = ReadWorker.compute, []

    def fail(self: ReadWorker, number: int, input_: tuple) -> object:
        computed.append(number)
        if len(computed) == 4:
            raise FailedError
        return compute(self, number, input_)

    monkeypatch.setattr(ReadWorker, "compute", fail)
    with pytest.raises(FailedError):
        write_training_set(config, tmp_path / "set")
    assert PreparedSet.read(open_store(tmp_path / "set")) is None
    with pytest.raises(InputError, match=r"another command was interrupted there, which differs in n_ways"):
        write_training_set(config.model_copy(update={"n_ways": 2}), tmp_path / "set")
    write_training_set(config, tmp_path / "set")
    assert computed[:5] == [0, 1, 2, 3, 3]
    assert len(computed) == len(set(computed)) + 1
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_an_object_store_holds_a_training_set(tmp_path: Path, s3: str) -> None:
    config = config_of(tmp_path, 150)
    prepared = write_training_set(config, f"{s3}/set")
    assert write_training_set(config, tmp_path / "set") == prepared
    there, here = TrainingSet(f"{s3}/set"), TrainingSet(tmp_path / "set")
    assert [there[number] for number in range(len(there))] == [here[number] for number in range(len(here))]


def test_a_prepared_training_set_is_reused_for_the_same_data_only(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    prepared = write_training_set(config, tmp_path / "set")
    before = contents(tmp_path / "set")
    other = config.model_copy(update={"batch_size": 8, "objective": "contrastive", "seed": 4})
    assert write_training_set(other, tmp_path / "set") == prepared
    assert contents(tmp_path / "set") == before
    with pytest.raises(InputError, match=r"holds a training set that differs in n_ways \(None there, 2 here\)"):
        write_training_set(config.model_copy(update={"n_ways": 2}), tmp_path / "set")
    (tmp_path / "small.jsonl").write_text('{"query": "a", "positive": "b"}\n')
    with pytest.raises(InputError, match="differs in the data's files"):
        write_training_set(config, tmp_path / "set")


def test_problems_of_all_parts_are_counted(tmp_path: Path, small: Iterator[None]) -> None:
    rows = range(300)
    positives = [None if row % 100 == 50 else f"positive {row}" for row in rows]
    columns = {"query": [f"query {row}" for row in rows], "positive": positives}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=50)
    values = {"model": "m", "data": str(tmp_path / "a.parquet"), "out": tmp_path / "m"}
    (info,) = write_training_set(TrainConfig(**values, on_error="skip"), tmp_path / "set").sources
    assert (info.examples, info.skipped) == (297, 3)
    with pytest.raises(InputError, match=r"a\.parquet, row 51: 'positive' is None"):
        write_training_set(TrainConfig(**values), tmp_path / "other")
    assert not (tmp_path / "other").exists()
