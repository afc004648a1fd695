from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycol.data import Fields, Passage, corpus_files, read_corpus
from raycol.errors import InputError, RaycolError
from raycol.indexing.plan import Part, Plan, plan_build, read_part, sample_documents
from tests.conftest import make_passages, write_jsonl


def plan_of(path: Path, per_part: int, on_error: str = "fail", fields: Fields | None = None) -> Plan:
    return plan_build(corpus_files(str(path)), fields or Fields(), per_part, on_error)


def passages_of(plan: Plan) -> list[Passage]:
    return [passage for part in plan.parts for _, passage in read_part(part, plan.fields)]


@settings(max_examples=40, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(["good", "blank", "bad", "repeated", "file"]), min_size=1, max_size=40),
    per_part=st.integers(1, 10),
)
def test_the_parts_together_are_the_corpus(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[str], per_part: int
) -> None:
    """Whatever is in which file, and wherever what is unusable stands."""
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
    assert all(Part.from_json(part.to_json()) == part for part in plan.parts)
    assert plan.lengths.sum() == plan.documents + kinds.count("repeated")


def test_a_repeated_id_is_named_with_both_places(tmp_path: Path) -> None:
    records = make_passages(30)
    write_jsonl(tmp_path / "a.jsonl", [*records, records[3]])
    with pytest.raises(InputError, match=r"a\.jsonl, line 31: the id '.*-3' stands on line 4 already; correct it"):
        plan_of(tmp_path, 7)
    write_jsonl(tmp_path / "a.jsonl", records)
    write_jsonl(tmp_path / "b.jsonl", [records[3]])
    with pytest.raises(InputError, match=r"b\.jsonl, line 1: the id '.*-3' stands on /.*a\.jsonl, line 4 already"):
        plan_of(tmp_path, 7)
    assert len(passages_of(plan_of(tmp_path, 7, "skip"))) == 30


def test_made_ids_number_the_records_wherever_a_part_begins(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "corpus.jsonl", make_passages(10))
    path.write_text("oops\n" + path.read_text())
    plan = plan_of(path, 3, "skip", Fields(make_ids="x-"))
    assert [passage.id for passage in passages_of(plan)] == [f"x-{number}" for number in range(1, 11)]


def test_the_sample_is_seeded_and_within_its_parts(corpus: Path) -> None:
    plan = plan_of(corpus, 7)
    chosen = sample_documents(plan, 20, seed=1)
    assert chosen == sample_documents(plan, 20, seed=1) != sample_documents(plan, 20, seed=2)
    assert sum(map(len, chosen)) == 20
    for part, positions in zip(plan.parts, chosen, strict=True):
        assert positions == sorted(set(positions))
        assert all(0 <= position < part.documents for position in positions)
    assert sum(map(len, sample_documents(plan, 1000, seed=1))) == plan.documents


def test_a_corpus_that_changes_during_a_build_is_noticed(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "corpus.jsonl", make_passages(10))
    plan = plan_of(path, 5)
    for changed in (make_passages(8), make_passages(10, seed=1)):
        write_jsonl(path, changed)
        with pytest.raises(RaycolError, match="changed during the build"):
            list(read_part(plan.parts[-1], plan.fields))


def test_the_digest_is_of_the_documents_alone(tmp_path: Path) -> None:
    plans = []
    for name, n in (("a", 10), ("b", 10), ("c", 9)):
        plans.append(plan_of(write_jsonl(tmp_path / f"{name}.jsonl", make_passages(n)), 4).digest)
    assert plans[0] == plans[1] != plans[2]
