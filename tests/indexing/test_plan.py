"""Plans: parts, duplicate ids, samples and digests of a corpus."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycol.data import Fields, Passage, corpus_files, read_corpus
from raycol.data.readers import hub
from raycol.errors import InputError, RaycolError
from raycol.indexing.plan import BuildPlan, _duplicate_hashes, plan_build, read_part, sample_documents
from tests.conftest import make_passages, write_jsonl


def plan_of(path: Path, per_part: int, on_error: str = "fail", fields: Fields | None = None) -> BuildPlan:
    return plan_build(corpus_files(str(path)), fields or Fields(), per_part, on_error)


def passages_of(plan: BuildPlan) -> list[Passage]:
    return [passage for part in plan.parts for _, passage in read_part(part, plan.fields)]


@given(
    kinds=st.lists(st.sampled_from(["good", "blank", "bad", "repeated", "file"]), min_size=1, max_size=40),
    per_part=st.integers(1, 10),
)
def test_the_parts_make_up_the_corpus(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[str], per_part: int
) -> None:
    folder = tmp_path_factory.mktemp("plan")
    lines = {"blank": "\n", "bad": "oops\n", "repeated": '{"_id": "first", "text": "again"}\n'}
    files = [['{"_id": "first", "text": "one"}\n']]
    for number, kind in enumerate(kinds):
        if kind == "file":
            files.append([])
        files[-1].append(lines.get(kind, f'{{"_id": "d{number}", "text": "text {number} é"}}\n'))
    for number, content in enumerate(files):
        (folder / f"{number:02d}.jsonl").write_text("".join(content))
    plan = plan_of(folder, per_part, "skip")
    assert passages_of(plan) == list(read_corpus(folder, "skip"))
    assert all(part.documents <= per_part for part in plan.parts)
    assert len(plan.problems) == kinds.count("bad") + kinds.count("repeated")
    assert all(pickle.loads(pickle.dumps(part)) == part for part in plan.parts)
    assert plan.lengths.sum() == plan.documents + kinds.count("repeated")


def test_a_duplicate_id_is_reported_with_both_lines(tmp_path: Path) -> None:
    records = make_passages(30)
    write_jsonl(tmp_path / "a.jsonl", [*records, records[3]])
    with pytest.raises(InputError, match=r"a\.jsonl, line 31: duplicate id '.*-3', first on line 4; correct it"):
        plan_of(tmp_path, 7)
    write_jsonl(tmp_path / "a.jsonl", records)
    write_jsonl(tmp_path / "b.jsonl", [records[3]])
    with pytest.raises(InputError, match=r"b\.jsonl, line 1: duplicate id '.*-3', first on /.*a\.jsonl, line 4"):
        plan_of(tmp_path, 7)
    assert len(passages_of(plan_of(tmp_path, 7, "skip"))) == 30


def test_made_ids_are_consecutive_across_parts(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "corpus.jsonl", make_passages(10))
    path.write_text("oops\n" + path.read_text())
    plan = plan_of(path, 3, "skip", Fields(make_ids="x-"))
    assert [passage.id for passage in passages_of(plan)] == [f"x-{number}" for number in range(1, 11)]


def test_the_sample_is_seeded_and_within_its_parts(corpus: Path) -> None:
    plan = plan_of(corpus, 7)
    sample = sample_documents(plan, 20, seed=1)
    assert sample == sample_documents(plan, 20, seed=1) != sample_documents(plan, 20, seed=2)
    assert sum(map(len, sample)) == 20
    for part, positions in zip(plan.parts, sample, strict=True):
        assert positions == sorted(set(positions))
        assert all(0 <= position < part.documents for position in positions)
    assert sum(map(len, sample_documents(plan, 1000, seed=1))) == plan.documents


def test_a_corpus_that_changes_during_a_build_is_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "corpus.jsonl", make_passages(10))
    plan = plan_of(path, 5)
    for changed in (make_passages(8), make_passages(10, seed=1)):
        write_jsonl(path, changed)
        with pytest.raises(RaycolError, match="changed during the build"):
            list(read_part(plan.parts[-1], plan.fields))


def test_duplicate_hashes_are_found_across_blocks() -> None:
    rng = np.random.default_rng(0)
    for size in (0, 1, 5, 3000):
        hashes_N = rng.integers(0, max(1, size), size, dtype=np.uint64) << np.uint64(50)
        values, counts = np.unique(hashes_N, return_counts=True)
        expected = np.flatnonzero(np.isin(hashes_N, values[counts > 1]))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("raycol.indexing.plan._BLOCK", 100)
            assert _duplicate_hashes(hashes_N) == expected.tolist()


@pytest.mark.parametrize("content", ["oops\noops\n", '{"_id": "a", "text": ""}\n'])
def test_if_every_record_is_skipped_the_first_is_reported(tmp_path: Path, content: str) -> None:
    (tmp_path / "c.jsonl").write_text(content)
    message = rf"an empty corpus; .*every record was skipped, the first was {tmp_path}/c.jsonl, line 1: "
    with pytest.raises(InputError, match=message):
        plan_of(tmp_path, 5, "skip")
    with pytest.raises(InputError, match=message):
        list(read_corpus(tmp_path, "skip"))


def test_a_title_column_that_no_document_has_is_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "c.jsonl", [{"_id": "a", "text": "one"}, {"_id": "b", "text": "two", "head": ""}])
    assert plan_of(path, 5, fields=Fields(title="head")).documents == 2
    with pytest.raises(InputError, match="no document has a field 'haed' for the title; leave `title_column=` out"):
        plan_of(path, 5, fields=Fields(title="haed"))


def save_dataset(folder: Path, value: float) -> Path:
    import datasets

    datasets.disable_progress_bars()
    rows = [{"id": "a", "embeddings": [[value, 0.0]], "other": [[value, 1.0]]}]
    made = {name: datasets.Dataset.from_list(rows) for name in ("x", "y")}
    datasets.DatasetDict(made).save_to_disk(folder)
    return folder


def digest_of(corpus: Path | str, split: str | None = None, **fields: Any) -> str:
    return plan_build(corpus_files(str(corpus), split=split), Fields(encoded=True, **fields), 5).digest


def test_the_digest_of_an_encoded_corpus_covers_its_files_and_fields(tmp_path: Path) -> None:
    """Embeddings are not read, so the identity of the files stands for them."""
    folder = save_dataset(tmp_path / "saved", 1.0)
    digests = [digest_of(folder, "x"), digest_of(folder, "y"), digest_of(folder, "x", embeddings="other")]
    assert digests == [digest_of(folder, "x"), digest_of(folder, "y"), digest_of(folder, "x", embeddings="other")]
    folder.rename(tmp_path / "old")
    digests.append(digest_of(save_dataset(folder, 2.0), "x"))
    assert len(set(digests)) == 4


def test_the_digest_of_a_hub_dataset_covers_its_state(tmp_path: Path) -> None:
    digests = []
    for value in (1.0, 1.0, 2.0):
        hub._load_cached.cache_clear()  # as in another process
        if not digests or value != 1.0:
            write_jsonl(tmp_path / "train.jsonl", [{"id": "a", "embeddings": [[value, 0.0]]}])
        digests.append(digest_of(f"hf:{tmp_path}"))
    assert digests[0] == digests[1] != digests[2]


def test_the_digest_depends_only_on_the_documents(tmp_path: Path) -> None:
    plans = []
    for name, n in (("a", 10), ("b", 10), ("c", 9)):
        plans.append(plan_of(write_jsonl(tmp_path / f"{name}.jsonl", make_passages(n)), 4).digest)
    assert plans[0] == plans[1] != plans[2]
