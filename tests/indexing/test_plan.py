from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycol.data import read_corpus
from raycol.errors import RaycolError
from raycol.indexing.plan import Slice, plan_build, read_slice, sample_documents
from tests.conftest import make_passages, write_jsonl


@settings(max_examples=40, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(["good", "blank", "bad", "repeated"]), min_size=1, max_size=40),
    per_partition=st.integers(1, 10),
)
def test_the_slices_together_are_the_corpus(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[str], per_partition: int
) -> None:
    lines = {"blank": "\n", "bad": "oops\n", "repeated": '{"_id": "first", "text": "again"}\n'}
    path = tmp_path_factory.mktemp("plan") / "corpus.jsonl"
    body = [
        lines.get(kind, f'{{"_id": "d{number}", "text": "text {number} é"}}\n') for number, kind in enumerate(kinds)
    ]
    path.write_text('{"_id": "first", "text": "one"}\n' + "".join(body))
    plan = plan_build(path, per_partition, "skip")
    assert [passage for part in plan.partitions for passage in read_slice(part)] == list(read_corpus(path, "skip"))
    assert all(part.documents == per_partition for part in plan.partitions[:-1])
    assert len(plan.problems) == kinds.count("bad") + kinds.count("repeated")
    assert all(Slice.from_row(part.to_row()) == part for part in plan.partitions)


def test_the_sample_is_seeded_and_within_its_partitions(corpus: Path) -> None:
    plan = plan_build(corpus, 7, "fail")
    chosen = sample_documents(plan, 20, seed=1)
    assert chosen == sample_documents(plan, 20, seed=1) != sample_documents(plan, 20, seed=2)
    assert sum(map(len, chosen)) == 20
    for part, positions in zip(plan.partitions, chosen, strict=True):
        assert positions == sorted(set(positions))
        assert all(0 <= position < part.documents for position in positions)
    assert sum(map(len, sample_documents(plan, None, seed=1))) == plan.documents


def test_a_corpus_that_changes_during_a_build_is_noticed(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "corpus.jsonl", make_passages(10))
    plan = plan_build(path, 5, "fail")
    for changed in (make_passages(8), make_passages(10, seed=1)):
        write_jsonl(path, changed)
        with pytest.raises(RaycolError, match="changed during the build"):
            read_slice(plan.partitions[-1])


def test_the_digest_is_of_the_documents_alone(tmp_path: Path) -> None:
    plans = []
    for name, n in (("a", 10), ("b", 10), ("c", 9)):
        plans.append(plan_build(write_jsonl(tmp_path / f"{name}.jsonl", make_passages(n)), 4, "fail").digest)
    assert plans[0] == plans[1] != plans[2]
