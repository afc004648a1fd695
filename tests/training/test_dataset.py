"""The written training set."""

import shutil
from pathlib import Path

import pytest

from raycol.errors import InputError
from raycol.training import TrainConfig
from raycol.training.dataset import SourceInfo, TrainingSet
from raycol.training.example_dataset import ExampleDataset
from raycol.training.preparation import write_training_set
from raycol.training.prepare import make_plan
from tests.conftest import write_jsonl

SCORED = [
    {"query": "rain", "documents": ["a cake", "a storm", "the sea"], "scores": [0.5, 7.0, 2.0]},
    {"query": "oven", "documents": ["a loaf", "a choir", "the sea"], "scores": [3.0, -1.0, 2.0]},
]


@pytest.mark.parametrize(
    ("objective", "first", "scores"),
    [("contrastive", ["a storm", "a loaf"], False), ("distillation", ["a cake", "a loaf"], True)],
)
def test_contrastive_training_takes_the_best_scored_document_as_the_positive(
    tmp_path: Path, objective: str, first: list[str], scores: bool
) -> None:
    data = write_jsonl(tmp_path / "scored.jsonl", SCORED)
    config = TrainConfig(model="m", data=str(data), out=tmp_path / "model", objective=objective)
    write_training_set(config, tmp_path / "set")
    rows = [TrainingSet(tmp_path / "set")[number] for number in range(2)]
    assert [row.documents[0] for row in rows] == first
    assert [set(row.documents) for row in rows] == [set(example["documents"]) for example in SCORED]
    assert [row.scores is not None for row in rows] == [scores, scores]
    if scores:
        texts = {id_: text for row in rows for id_, text in zip(row.document_ids, row.documents, strict=True)}
        positives = TrainingSet(tmp_path / "set").shard(0).positives_N.tolist()
        assert [texts[id_] for id_ in positives] == ["a storm", "a loaf"]


def written(folder: Path, records: list[dict], **values: object) -> tuple[SourceInfo, list[tuple[str, list[str]]]]:
    """Write a training set of records; return its statistics and the written (query, documents) rows."""
    data = write_jsonl(folder / "data.jsonl", records)
    config = TrainConfig.model_validate({"model": "m", "data": str(data), "out": folder / "model", **values})
    shutil.rmtree(folder / "set", ignore_errors=True)
    (info,) = write_training_set(config, folder / "set").sources
    rows = TrainingSet(folder / "set")
    return info, [(rows[number].query, rows[number].documents) for number in range(len(rows))]


PERU = {"query": "capital of peru", "documents": ["quito", "bogota", "caracas", "lima"], "scores": [0.1, 0.2, 0.3, 9]}


@pytest.mark.parametrize("objective", ["contrastive", "distillation"])
@pytest.mark.parametrize("n_ways", [2, 3])
def test_n_ways_never_cuts_the_positive(tmp_path: Path, objective: str, n_ways: int) -> None:
    info, ((_, documents),) = written(tmp_path, [PERU], objective=objective, n_ways=n_ways)
    first = ["quito", "bogota"][: n_ways - 1]
    assert documents == (["lima", *first] if objective == "contrastive" else [*first, "lima"])
    assert info.left_out == {"documents beyond `n_ways=`": 4 - n_ways}
    assert f"{4 - n_ways} documents beyond `n_ways=` left out" in info.remarks()


def test_pairs_labelled_zero_are_left_out(tmp_path: Path) -> None:
    records = [{"query": "capital of peru", "answer": "lima", "label": 1},
               {"query": "capital of peru", "answer": "bogota", "label": 0}]  # fmt: skip
    info, rows = written(tmp_path, records)
    assert rows == [("capital of peru", ["lima"])]
    assert (info.examples, info.left_out) == (1, {"pairs labelled 0": 1})
    with pytest.raises(InputError, match="no training examples; all records were left out: 1 pairs labelled 0"):
        written(tmp_path, records[1:])
    with pytest.raises(InputError, match=r"line 1: its only document is labelled 0\.3; .*'columns'"):
        written(tmp_path, [{**records[0], "label": 0.3}])


def test_documents_that_tie_with_the_positive_are_no_negatives(tmp_path: Path) -> None:
    labelled = {"query": "q", "documents": ["a", "b", "c", "d"], "labels": [0, 1, 1, 0]}
    info, rows = written(tmp_path, [labelled])
    assert rows == [("q", ["b", "a", "d"])]
    assert info.left_out == {"documents scored as high as the positive": 1}
    with pytest.raises(InputError, match="all 4 documents have the score 0; expected a positive"):
        written(tmp_path, [{**labelled, "labels": [0, 0, 0, 0]}])


def test_unused_scores_of_a_named_positive_are_counted(tmp_path: Path) -> None:
    info, rows = written(tmp_path, [{"query": "q", "positive": "a", "negative": "b", "label": 0.4}])
    assert rows == [("q", ["a", "b"])]
    assert info.remarks() == ["1 examples' scores (the positive is named) left out"]


VARYING = [
    {"query": "capital of peru", "pos": ["lima"], "neg": ["bogota"]},
    {"query": "capital of chile", "pos": ["santiago", "santiago de chile"], "neg": ["quito", "lima", "bogota"]},
    {"query": "capital of spain", "pos": ["madrid"], "neg": []},
]


@pytest.mark.parametrize("records", [VARYING, VARYING[::-1]], ids=["short first", "short last"])
def test_short_examples_are_padded_with_positives_of_other_queries(tmp_path: Path, records: list[dict]) -> None:
    info, rows = written(tmp_path, records)
    assert (info.examples, info.n_ways, info.short, info.left_out) == (4, 4, 2, {})
    assert info.remarks() == ["2 examples with fewer than 4 documents padded (`n_ways=`)"]
    config = TrainConfig(model="m", data=str(tmp_path / "data.jsonl"), out=tmp_path / "model", batch_size=2)
    examples = TrainingSet(tmp_path / "set")
    padded = ExampleDataset(examples, make_plan(config, (info,), examples))
    positives = {query: [row[1][0] for row in rows if row[0] == query] for query, _ in rows}
    for number, (query, documents) in enumerate(rows):
        *texts, source = padded[number, 0].values()
        assert source == "0"
        assert texts[: 1 + len(documents)] == [query, *documents]
        assert len(texts) == 5
        assert not {*texts[1 + len(documents) :]} & {*positives[query]}
        assert padded[number, 0] == padded[number, 1]


def test_short_scored_examples_repeat_their_documents_and_scores(tmp_path: Path) -> None:
    short = {"query": "capital of chile", "documents": ["santiago", "quito"], "scores": [9.0, 1.0]}
    info, _ = written(tmp_path, [PERU, short], objective="distillation")
    config = TrainConfig(model="m", data="d", out=tmp_path / "model", objective="distillation", batch_size=1)
    examples = TrainingSet(tmp_path / "set")
    padded = ExampleDataset(examples, make_plan(config, (info,), examples))[1, 0]
    assert [*padded.values()] == [short["query"], *["santiago", "quito"] * 2, [9.0, 1.0, 9.0, 1.0], "0"]


@pytest.mark.parametrize("scored", [False, True])
def test_each_batch_samples_negatives_of_the_pool(tmp_path: Path, scored: bool) -> None:
    texts = [f"passage {number}" for number in range(9)]
    scores = [1.0, 2.0, 9.0, *map(float, range(3, 9))]
    record = {"documents": texts, "scores": scores} if scored else {"positive": texts[0], "negatives": texts[1:]}
    records = [{"query": "a", **record}, {"query": "b", **record}, {"query": "short", "positive": "p", **{
        name: values[:2] for name, values in record.items() if name != "positive"}}][: 2 if scored else 3]  # fmt: skip
    values = {"objective": "distillation"} if scored else {}
    info, rows = written(tmp_path, records, n_ways=4, sample_negatives=True, **values)
    assert (info.n_ways, info.short) == (4, 0 if scored else 1)
    assert [len(documents) for _, documents in rows] == [9, 9] + [3] * (not scored)
    config = TrainConfig(model="m", data="d", out="o", batch_size=1, n_ways=4, sample_negatives=True, **values)
    examples = TrainingSet(tmp_path / "set")
    dataset = ExampleDataset(examples, make_plan(config, (info,), examples))
    drawn = [dataset[0, batch] for batch in range(60)]
    assert drawn == [dataset[0, batch] for batch in range(60)]
    positive, seen = texts[2 if scored else 0], set()
    for row in drawn:
        documents = [row[f"document_{number}"] for number in range(1, 5)]
        positions = [texts.index(text) for text in documents]
        assert positive in documents
        assert positions == sorted({*positions})
        assert row.get("label") == ([scores[one] for one in positions] if scored else None)
        seen.add(tuple(positions))
    assert len(seen) > 30  # of 56
    assert {one for positions in seen for one in positions} == {*range(9)}
    assert dataset[1, 0] != {**dataset[0, 0], "query": "b"} or dataset[1, 1] != {**dataset[0, 1], "query": "b"}
