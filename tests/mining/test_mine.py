"""`raycol mine` in this process: its output, resuming, and bad input."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from raycol.data.examples import Example, ExampleSource, read_examples
from raycol.errors import InputError
from raycol.index import Document, Index
from raycol.mining import MineConfig, MiningReport
from raycol.mining.cross_encoder import load_cross_encoder, score_pairs
from raycol.mining.job import is_complete
from raycol.mining.queries import group_queries
from raycol.models.encoder import load_encoder
from raycol.storage.unfinished import unfinished_store
from tests.conftest import write_jsonl
from tests.mining.conftest import contents, make_index, passages_of, save_cross_encoder
from tests.mining.in_process import EXECUTOR, RecordingExecutor, mine_negatives


def mine(index: Path, data: Path, out: Path, executor: RecordingExecutor = EXECUTOR, **settings: Any) -> MiningReport:
    config = MineConfig(index=index, data=data, out=out, **{"queries_per_part": 7, **settings})
    return mine_negatives(config, executor=executor)


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(out.glob("part-*.parquet")) for row in pq.read_table(path).to_pylist()]


def hidden_siblings(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir() if path.name.startswith("."))


@pytest.fixture(scope="module")
def pairs(beir: Path) -> Path:
    """The BEIR folder's pairs as examples without ids; every third positive is not in the index."""
    examples = read_examples(ExampleSource(path=str(beir)))
    return write_jsonl(
        beir.parent / "pairs.jsonl",
        [
            {"query": each.query, "positive": each.documents[0] if number % 3 else f"elsewhere {number}"}
            for number, each in enumerate(examples)
        ],
    )


@pytest.fixture(scope="module")
def uninterrupted(beir: Path, index: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an uninterrupted run with the default settings writes."""
    out = tmp_path_factory.mktemp("uninterrupted") / "o"
    mine(index, beir, out)
    return contents(out)


def test_the_output_is_training_data(beir: Path, index: Path, tiny_colbert: Path, tmp_path: Path) -> None:
    report = mine(index, beir, tmp_path / "o", negatives=5, to_rank=30)
    rows = rows_of(tmp_path / "o")
    assert (report.queries, report.pairs, report.rows, report.negatives) == (30, 60, 60, 300)
    assert (report.parts, report.reused_parts, report.short, report.hits) == (5, 0, {}, 900)
    saved = MiningReport.model_validate_json((tmp_path / "o" / "mining-report.json").read_bytes())
    assert saved == report
    assert hidden_siblings(tmp_path / "o") == []
    opened, encoder = Index.open(index), load_encoder(tiny_colbert, device="cpu")
    qrels = [line.split("\t")[:2] for line in (beir / "qrels/train.tsv").read_text().splitlines()[1:]]
    assert [[row["query_id"], row["positive_id"]] for row in rows] == qrels
    contents_by_id = {passage.id: passage.content for passage in passages_of(beir)}
    queries = encoder.encode_query([row["query"] for row in rows], convert_to_numpy=True, show_progress_bar=False)
    for row, hits in zip(rows, opened.exact(queries, 80), strict=True):
        assert row["positive"] == contents_by_id[row["positive_id"]]
        assert row["negatives"] == [contents_by_id[id_] for id_ in row["negative_ids"]]
        exact = {hit.id: hit.score for hit in hits}
        ids = [row["positive_id"], *row["negative_ids"]]
        assert row["mined_scores"] == pytest.approx([exact[id_] for id_ in ids], abs=1e-4)
    # The output is readable as examples, and the mined scores are not taken for a teacher's.
    examples = list(read_examples(ExampleSource(path=str(tmp_path / "o"))))
    assert [(each.query, each.documents) for each in examples] == [
        (row["query"], (row["positive"], *row["negatives"])) for row in rows
    ]
    assert examples[0].document_ids == (rows[0]["positive_id"], *rows[0]["negative_ids"])
    assert examples[0].scores is None


def test_examples_without_ids_are_matched_by_text(index: Path, pairs: Path, tmp_path: Path) -> None:
    report = mine(index, pairs, tmp_path / "o", negatives=3, to_rank=80, relative_margin=0.0)
    rows = rows_of(tmp_path / "o")
    assert 20 <= report.positives_encoded < 60
    assert report.left_out["text_of_positive"] > 10
    for row in rows:
        assert row["query_id"] is None
        assert (row["positive_id"] is None) == row["positive"].startswith("elsewhere")
        assert (row["negative_ids"] is None) == (row["positive_id"] is None)
        assert row["positive"] not in row["negatives"]
        assert all(score <= row["mined_scores"][0] for score in row["mined_scores"][1:])
    assert len(list(read_examples(ExampleSource(path=str(tmp_path / "o"))))) == len(rows) == report.rows


@pytest.mark.slow
def test_the_part_size_does_not_change_the_negatives(beir: Path, index: Path, tmp_path: Path) -> None:
    settings = {"negatives": 4, "sampling": "random", "margin": 0.01, "short": "keep"}
    whole = mine(index, beir, tmp_path / "whole", queries_per_part=100, **settings)
    parts = mine(index, beir, tmp_path / "parts", queries_per_part=4, **settings)
    assert (whole.parts, parts.parts) == (1, 8)
    for one, other in zip(rows_of(tmp_path / "whole"), rows_of(tmp_path / "parts"), strict=True):
        assert one["negative_ids"] == other["negative_ids"]
        assert one["mined_scores"] == pytest.approx(other["mined_scores"], abs=1e-4)


@pytest.mark.slow
def test_skipped_short_queries_are_reported(
    beir: Path, index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from raycol.display import mined

    settings = {"negatives": 10, "to_rank": 25, "margin": 0.05}
    skipped = mine(index, beir, tmp_path / "skip", **settings)
    kept = mine(index, beir, tmp_path / "keep", short="keep", **settings)
    assert 0 < sum(skipped.short.values()) < skipped.queries == 30
    assert skipped.short == kept.short
    assert {"margin"} <= skipped.short.keys() <= {"margin", "positive", "repeated_text"}
    assert skipped.rows < kept.rows
    assert all(len(row["negatives"]) == 10 for row in rows_of(tmp_path / "skip"))
    assert min(len(row["negatives"]) for row in rows_of(tmp_path / "keep")) < 10
    mined(skipped)
    output = capsys.readouterr().out
    assert f"{sum(skipped.short.values())} of 30 queries have fewer than 10 negatives: " in output
    assert f": {sum(skipped.short.values())} DROPPED (--short). By what excluded most of their hits: " in output
    assert "within --margin of the positive" in output


def test_a_job_without_negatives_leaves_no_files(beir: Path, index: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"none of 30 queries has 7 negatives \(.*: 30 below `min_score=`\); raise `to_rank=`"
    ):
        mine(index, beir, tmp_path / "o", min_score=1000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_texts_come_from_the_corpus_if_the_index_has_none(
    beir: Path, index: Path, pairs: Path, tiny_colbert: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    make_index(bare, passages_of(beir), tiny_colbert, with_text=False)
    mine(index, beir, tmp_path / "stored")
    mine(bare, beir, tmp_path / "beir")
    assert contents(tmp_path / "beir") == contents(tmp_path / "stored")
    with pytest.raises(InputError, match=r"bare: stores no texts.*`corpus=`"):
        mine(bare, pairs, tmp_path / "o")
    mine(bare, pairs, tmp_path / "named", corpus=beir)
    mine(index, pairs, tmp_path / "pairs")
    assert contents(tmp_path / "named") == contents(tmp_path / "pairs")
    lacking = write_jsonl(tmp_path / "lacking.jsonl", [{"_id": "other", "text": "rain"}])
    with pytest.raises(InputError, match=r"lacking.jsonl: has no document '.*', which the index has"):
        mine(bare, pairs, tmp_path / "o", corpus=lacking)


@pytest.mark.slow
def test_the_cross_encoder_rejects_false_negatives(
    beir: Path, index: Path, tiny_cross_encoder: Path, tmp_path: Path
) -> None:
    settings = {"negatives": 4, "short": "keep", "to_rank": 30}
    plain = mine(index, beir, tmp_path / "plain", **settings)
    report = mine(
        index, beir, tmp_path / "o", cross_encoder=str(tiny_cross_encoder), cross_encoder_margin=0.5, **settings
    )
    model = load_cross_encoder(str(tiny_cross_encoder), device="cpu")
    assert report.left_out["cross_encoder"] > 10
    assert report.pairs_scored > report.negatives
    assert plain.pairs_scored == 0
    rows = rows_of(tmp_path / "o")
    positives = score_pairs(model, [(row["query"], row["positive"]) for row in rows], 32)
    lowest: dict[str, float] = {}
    for row, score in zip(rows, positives, strict=True):
        lowest[row["query"]] = min(lowest.get(row["query"], np.inf), float(score))
    pairs = [(row["query"], text) for row in rows for text in row["negatives"]]
    for (query, _), score in zip(pairs, score_pairs(model, pairs, 32), strict=True):
        assert score <= lowest[query] - 0.5 + 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("died", range(6))
def test_the_same_command_resumes_wherever_it_died(
    beir: Path,
    index: Path,
    uninterrupted: dict[str, bytes],
    tmp_path: Path,
    computed_parts: list[int],
    died: int,
) -> None:
    stop_after(died, beir, index, tmp_path / "o")
    assert not (tmp_path / "o").exists()
    del computed_parts[:]
    report = mine(index, beir, tmp_path / "o")
    assert computed_parts == list(range(died, 5))
    assert report.reused_parts == died
    assert contents(tmp_path / "o") == uninterrupted
    assert hidden_siblings(tmp_path / "o") == []
    with pytest.raises(InputError, match="o: already exists; choose another folder"):
        mine(index, beir, tmp_path / "o")


def stop_after(parts: int, data: Path, index: Path, out: Path, **settings: Any) -> Path:
    """Interrupt the job after some parts, or before its last rename if all are finished. Return its folder."""

    class InterruptedExecutor(RecordingExecutor):
        def run(self, worker: Any, config: Any, inputs: Any, *rest: Any) -> Any:
            yield from super().run(worker, config, dict(list(inputs.items())[:parts]), *rest)
            if parts < 5:
                raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        rename = os.rename

        def interrupt_last(source: Path, target: Path) -> None:
            if Path(target) == out:
                raise KeyboardInterrupt
            rename(source, target)

        patch.setattr(os, "rename", interrupt_last)
        with pytest.raises(KeyboardInterrupt):
            mine(index, data, out, InterruptedExecutor(), **settings)
    (unfinished,) = out.parent.glob(f".{out.name}-unfinished/[!.]*")
    assert len(list(unfinished.glob("result/part-*"))) == parts
    return unfinished


@pytest.mark.slow
def test_a_damaged_part_is_recomputed(
    beir: Path, index: Path, uninterrupted: dict[str, bytes], tmp_path: Path, computed_parts: list[int]
) -> None:
    unfinished = stop_after(4, beir, index, tmp_path / "o")
    for number, content in ((1, b""), (2, (unfinished / "result/part-00002.parquet").read_bytes()[:-9])):
        (unfinished / f"result/part-{number:05d}.parquet").write_bytes(content)
    (unfinished.parent / "00000000-unfinished-left").write_bytes(b"of a dead worker")
    (unfinished.parent / "00000000-unfinished-plan").mkdir()
    del computed_parts[:]
    assert mine(index, beir, tmp_path / "o").reused_parts == 2
    assert computed_parts == [1, 2, 4]
    assert contents(tmp_path / "o") == uninterrupted
    assert hidden_siblings(tmp_path / "o") == []


@pytest.mark.slow
def test_a_different_command_over_an_unfinished_one_is_refused(beir: Path, index: Path, tmp_path: Path) -> None:
    unfinished = stop_after(2, beir, index, tmp_path / "o")
    with pytest.raises(InputError, match=rf"differs in negatives \(7 there, 6 here\); .* remove {unfinished} to"):
        mine(index, beir, tmp_path / "o", negatives=6)
    data = tmp_path / "changed"
    shutil.copytree(beir, data)
    with (data / "qrels/train.tsv").open("a") as file:
        file.write("q1\tharbour-0\t1\n")
    with pytest.raises(InputError, match="differs in what is read"):
        mine(index, data, tmp_path / "o")
    copy = tmp_path / "index"
    shutil.copytree(index, copy)
    Index.open(copy).delete(["harbour-0"])
    with pytest.raises(InputError, match=r"differs in index .*, version \(1 there, 2 here\)"):
        mine(copy, beir, tmp_path / "o")
    # The index's path, newer versions and the number of workers do not matter.
    assert mine(copy, beir, tmp_path / "o", version=1, num_workers=3, on_error="skip").reused_parts == 2


def test_an_unfinished_job_without_parts_is_deleted(beir: Path, index: Path, tmp_path: Path) -> None:
    stop_after(0, beir, index, tmp_path / "o", negatives=6)
    mine(index, beir, tmp_path / "o")
    assert hidden_siblings(tmp_path / "o") == []


@pytest.mark.slow
def test_bad_input_is_refused_before_any_work(
    beir: Path, index: Path, tiny_colbert: Path, tiny_backbone: Path, tmp_path: Path, computed_parts: list[int]
) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    encoded = tmp_path / "encoded"
    Index.create(encoded, [Document("a", np.ones((2, 32), np.float32), {"text": "a"})])
    split = save_cross_encoder(tiny_backbone, tmp_path / "two-labels", num_labels=2)
    before = sorted(tmp_path.iterdir())
    out = tmp_path / "o"
    for settings, message in (
        ({"index": tmp_path / "gone"}, "gone: no such folder; expected the folder of an index"),
        ({"version": 9}, "9"),
        ({"data": empty}, "empty.jsonl: no training examples in it"),
        ({"data": tmp_path / "gone"}, "gone: no such file"),
        ({"split": "dev"}, "qrels/dev.tsv: no such file"),
        ({"model": str(tiny_backbone)}, "is not the one the index was built with"),
        ({"model": str(tmp_path / "gone")}, "gone': no such folder"),
        ({"index": encoded}, "does not record the model it was built with; pass `model=`"),
        ({"index": encoded, "model": str(tiny_colbert)}, "has embeddings of 16 dimensions; the index has 32"),
        ({"cross_encoder": str(tmp_path / "gone")}, "gone': no such folder"),
        ({"cross_encoder": str(tiny_colbert)}, "is not a cross-encoder"),
        ({"cross_encoder": str(tiny_backbone)}, r"is not a cross-encoder \(BertModel\)"),
        ({"cross_encoder": str(split)}, "returns 2 scores per pair; expected"),
        ({"out": empty}, "empty.jsonl: already exists"),
    ):
        values = {"index": index, "data": beir, "out": out, **settings}
        with pytest.raises(InputError, match=message):
            mine_negatives(MineConfig(**values))
    assert sorted(tmp_path.iterdir()) == before
    assert computed_parts == []


@pytest.mark.slow
def test_unusable_records_are_skipped_and_listed(beir: Path, index: Path, tmp_path: Path) -> None:
    data = tmp_path / "beir"
    shutil.copytree(beir, data)
    with (data / "qrels/train.tsv").open("a") as file:
        file.write("q1\tnowhere\t1\n")
    with pytest.raises(InputError, match=r"'nowhere'.*`on_error='skip'`"):
        mine(index, data, tmp_path / "o")
    report = mine(index, data, tmp_path / "o", on_error="skip")
    assert len(report.skipped) == 1
    assert json.loads((tmp_path / "o/mining-report.json").read_text())["skipped"][0]["what"].count("nowhere") == 1
    assert report.pairs == 60


def test_a_command_deletes_nothing_of_a_running_one(
    beir: Path, index: Path, uninterrupted: dict[str, bytes], tmp_path: Path
) -> None:
    """While the other plans or runs, and whether the commands are equal or differ."""
    refusals: list[str] = []

    class ContestedExecutor(RecordingExecutor):
        def run(self, *arguments: Any, **named: Any) -> Any:
            for row in super().run(*arguments, **named):
                for settings in ({}, {"negatives": 2}):
                    with pytest.raises(InputError, match="another command is running") as refused:
                        mine(index, beir, tmp_path / "o", **settings)
                    refusals.append(str(refused.value))
                yield row

    with unfinished_store(str(tmp_path / "o"), is_complete) as store, store.workspace(0) as planned:
        with pytest.raises(InputError, match="another command is running"):
            mine(index, beir, tmp_path / "o")
        assert planned.is_dir()
    report = mine(index, beir, tmp_path / "o", ContestedExecutor())
    assert len(refusals) == 2 * report.parts
    assert contents(tmp_path / "o") == uninterrupted
    assert {path.name for path in tmp_path.iterdir()} == {"o"}


def test_pairs_labelled_zero_are_not_positives(beir: Path, index: Path, tmp_path: Path) -> None:
    pairs = [
        {"query": one.query, "answer": one.documents[0], "label": 1}
        for one in read_examples(ExampleSource(path=str(beir)))
    ]
    data = write_jsonl(tmp_path / "pairs.jsonl", [*pairs[:6], {**pairs[6], "label": 0}])
    report = mine(index, data, tmp_path / "o")
    assert (report.pairs, len(report.skipped)) == (6, 1)
    assert str(report.skipped[0]).endswith("line 7: its only document is labelled 0, so it is not a positive")


def test_documents_tied_with_the_positive_are_not_negatives() -> None:
    example = Example("here", "q", ("a", "b", "c", "d"), (0.0, 1.0, 1.0, 0.5), positive_first=False)
    (query,) = group_queries([example])
    assert [positive.text for positive in query.positives] == ["b"]
    assert query.other_texts == ["a", "c"]
