"""Plans in ranges of the corpus: the documents, problems and columns of a plan in one pass."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycol.data import BadRecord, Fields, Passage, corpus_files
from raycol.distributed.executor import IN_PROCESS, ON_RAY
from raycol.errors import InputError, RaycolError
from raycol.index import Index
from raycol.index.format.columns import Columns
from raycol.indexing import IndexConfig, duplicates, plan_ranges
from raycol.indexing.metadata import MetadataCheck
from raycol.indexing.plan import BuildPlan, plan_build, read_part
from raycol.indexing.plan_ranges import cut_corpus, plan_corpus
from raycol.storage import open_store
from tests.conftest import make_clustered, make_passages, save_encoded, write_jsonl
from tests.indexing.cluster import contents
from tests.indexing.in_process import build_index


@pytest.fixture(autouse=True)
def small_ranges() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_ranges, "RANGE_BYTES", 200)
        patch.setattr(plan_ranges, "_RANGE_FILES", 3)
        yield


def in_ranges(corpus: Path, out: Path, fields: Fields, executor: Any = IN_PROCESS, **settings: Any) -> Any:
    config = IndexConfig(corpus=str(corpus), out=str(out), **{"docs_per_partition": 3, "on_error": "skip"} | settings)
    files = config.files()
    store = open_store(out)
    return plan_corpus(config, files, cut_corpus(files), fields, False, store, 0, lambda *_: None, executor)


def in_one_pass(corpus: Path, fields: Fields, on_error: Any = "skip") -> tuple[BuildPlan, Columns]:
    check, files = MetadataCheck(fields), corpus_files(str(corpus))
    return plan_build(files, fields, 3, on_error, check), check.finish(files[0])


def documents_of(plan: BuildPlan) -> list[tuple[str, Passage]]:
    """The documents of all parts, each with its file and line."""
    return [document for part in plan.parts for document in read_part(part, plan.fields)]


def found_by(plan: Any, *arguments: Any, **settings: Any) -> Any:
    """Documents, problems, lengths and columns of a plan; or the error."""
    try:
        made, columns = plan(*arguments, **settings)
    except InputError as error:
        return str(error)
    return documents_of(made), made.problems, made.lengths.tolist(), columns


LINES = {
    "blank": "\n\n",
    "bad": "oops\n",
    "repeated": '{"_id": "first", "text": "again"}\n',
    "float": '{"_id": "f%d", "text": "a", "year": 1.5}\n',
    "string": '{"_id": "s%d", "text": "a", "year": "old"}\n',
    "long": '{"_id": "l%d", "text": "' + "long " * 100 + '"}\n',
}


@given(
    kinds=st.lists(st.sampled_from(["good", "good", "file", *LINES]), min_size=1, max_size=40),
    on_error=st.sampled_from(["skip", "skip", "fail"]),
    made=st.booleans(),
    group_ids=st.sampled_from([4, 1 << 23]),
)
def test_ranges_find_what_one_pass_finds(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[str], on_error: str, made: bool, group_ids: int
) -> None:
    folder = tmp_path_factory.mktemp("plan")
    (folder / "corpus").mkdir()
    files = [['{"_id": "first", "text": "one", "year": 1}\n']]
    for number, kind in enumerate(kinds):
        if kind == "file":
            files.append([])
        line = LINES.get(kind, '{"_id": "d%d", "text": "text é", "year": 2000}\n')
        files[-1].append(line % number if "%d" in line else line)
    for number, content in enumerate(files):
        (folder / "corpus" / f"{number:02d}.jsonl").write_text("".join(content))
    fields = Fields(metadata={"year": ""}, make_ids="x-" if made else None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "GROUP_IDS", group_ids)
        ours = found_by(in_ranges, folder / "corpus", folder / "index", fields, on_error=on_error)
    assert ours == found_by(in_one_pass, folder / "corpus", fields, on_error)


def test_rows_of_parquet_and_whole_compressed_files(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    table = pa.table({"id": [f"p{n}" for n in range(100)], "text": [f"rain {n} " * 9 for n in range(100)]})
    pq.write_table(table, corpus / "a.parquet", row_group_size=7)
    rows = [{"id": f"c{n}", "text": "wind " * 9} for n in range(20)]
    (corpus / "b.json").write_text(json.dumps(rows))
    (corpus / "c.csv").write_text("id,text\n" + "".join(f'v{n},"two\nlines {n}"\n' for n in range(40)))
    ranges = cut_corpus(corpus_files(str(corpus)))
    assert [len(range_.files) for range_ in ranges] == [1] * len(ranges)
    by_name = [range_.files[0].file.uri.rpartition("/")[2] for range_ in ranges]
    assert by_name.count("a.parquet") > 5
    assert by_name.count("c.csv") == 1
    ours = found_by(in_ranges, corpus, tmp_path / "i", Fields())
    assert ours == found_by(in_one_pass, corpus, Fields())
    assert len(ours[0]) == 140


def test_a_repeated_command_plans_only_what_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_ranges, "RANGE_BYTES", 1 << 20)
    monkeypatch.setattr(plan_ranges, "_RANGE_FILES", 1)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number in range(12):
        write_jsonl(corpus / f"{number:02d}.jsonl", make_passages(3, seed=number))
    planned: list[str] = []
    scan = plan_ranges.scan_range

    def counted(ranges: Any, *rest: Any, **settings: Any) -> Any:
        planned.extend(range_.file.uri[-8:] for range_ in ranges)
        return scan(ranges, *rest, **settings)

    monkeypatch.setattr(plan_ranges, "scan_range", counted)
    fields, out = Fields(make_ids=""), tmp_path / "i"
    first = found_by(in_ranges, corpus, out, fields)
    assert len(planned) == 12
    planned.clear()
    assert found_by(in_ranges, corpus, out, fields) == first
    assert planned == []
    write_jsonl(corpus / "05.jsonl", make_passages(4, seed=20))
    again = found_by(in_ranges, corpus, out, fields)
    assert planned == ["05.jsonl"]
    assert len(again[0]) == len(first[0]) + 1
    # Without the hashes of a range, it is planned again.
    fields = Fields()
    (corpus / "05.jsonl").write_text('{"_id": "a", "text": "a"}\n')
    ours = found_by(in_ranges, corpus, out, fields)
    next(out.glob("builds/*/00000001.ids")).write_bytes(b"")
    planned.clear()
    assert found_by(in_ranges, corpus, out, fields) == ours
    assert planned == ["01.jsonl"]


def test_hashes_that_change_while_they_are_compared_are_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path / "i")
    saved = duplicates.save_hashes(store, "builds", "x", np.arange(5, dtype=np.uint64))
    (tmp_path / "i" / "builds" / "x.ids").write_bytes(bytes(40))
    ranges = [duplicates.RangeIds(saved, 0, ())]
    config = IndexConfig(corpus="c", out="o")
    with pytest.raises(RaycolError, match=r"x\.ids: damaged since it was written; run the command again"):
        list(duplicates.repeated_ids(store, "builds", ranges, Fields(), IN_PROCESS, config))


def test_a_missing_file_is_refused_before_any_work(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", make_passages(2))
    files = corpus_files(str(path))
    path.unlink()
    with pytest.raises(InputError, match=r"a\.jsonl: no such file"):
        cut_corpus(files)


def encoded_corpus(folder: Path) -> tuple[Path, list[np.ndarray]]:
    """Write five files of six documents each; return their folder and the documents' embeddings."""
    documents = make_clustered(30, 16, seed=0)
    corpus = folder / "corpus"
    corpus.mkdir()
    for number in range(5):
        save_encoded(corpus / f"{number}.npz", documents[6 * number :][:6], [f"{number}-{n}" for n in range(6)])
    return corpus, documents


def test_a_build_of_several_ranges_leaves_only_its_index(tmp_path: Path) -> None:
    corpus, _ = encoded_corpus(tmp_path)
    build_index(IndexConfig(corpus=str(corpus), out=str(tmp_path / "i"), docs_per_partition=4))
    assert len(cut_corpus(corpus_files(str(corpus)), encoded=True)) == 5
    assert {path.name for path in (tmp_path / "i").iterdir()} == {
        "manifests", "partitions", "codebooks", "build-report.json",
    }  # fmt: skip


def test_a_change_that_lengths_and_times_do_not_show_is_planned_on_the_next_run(tmp_path: Path) -> None:
    corpus, documents = encoded_corpus(tmp_path)
    config = IndexConfig(corpus=str(corpus), out=str(tmp_path / "i"), docs_per_partition=4)
    files = config.files()
    fields = config.fields()
    plan_corpus(config, files, cut_corpus(files, encoded=True), fields, False, open_store(tmp_path / "i"), 0,
                lambda *_: None, IN_PROCESS)  # fmt: skip
    before = (corpus / "0.npz").stat()
    save_encoded(corpus / "0.npz", documents[:6], [f"x-{n}" for n in range(6)])
    assert (corpus / "0.npz").stat().st_size == before.st_size
    os.utime(corpus / "0.npz", ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(RaycolError, match="the corpus changed during the build; run it again"):
        build_index(config)
    build_index(config)
    assert "x-0" in Index.open(tmp_path / "i")


def test_a_range_that_cannot_be_read_a_second_time_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is planned again because its column has another type than that of the range before."""
    monkeypatch.setattr(plan_ranges, "_RANGE_FILES", 1)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, year in enumerate(("1", '"old"')):
        (corpus / f"{number}.jsonl").write_text(f'{{"_id": "d{number}", "text": "a", "year": {year}}}\n')
    scan, calls = plan_ranges.scan_range, []

    def scan_twice(*arguments: Any, **settings: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise InputError("the disk is gone")
        return scan(*arguments, **settings)

    monkeypatch.setattr(plan_ranges, "scan_range", scan_twice)
    with pytest.raises(InputError, match="the disk is gone"):
        in_ranges(corpus, tmp_path / "i", Fields(metadata={"year": ""}))


def test_a_refused_corpus_leaves_nothing(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number in range(5):
        (corpus / f"{number}.jsonl").write_text("oops\n" * 60)
    with pytest.raises(InputError, match=r"0\.jsonl, line 1: not JSON"):
        build_index(IndexConfig(corpus=str(corpus), out=str(tmp_path / "i"), model="none"))
    assert not (tmp_path / "i").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_workers_on_ray_make_the_same_plan(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number in range(4):
        write_jsonl(corpus / f"{number}.jsonl", [*make_passages(20, seed=number), *make_passages(1, seed=0)])
    (corpus / "4.jsonl").write_text("oops\n")
    one = found_by(in_ranges, corpus, tmp_path / "one", Fields())
    assert found_by(in_ranges, corpus, tmp_path / "ray", Fields(), executor=ON_RAY) == one
    assert BadRecord(f"{corpus}/4.jsonl, line 1", one[1][0].what) in one[1]
    assert contents(tmp_path / "one") == contents(tmp_path / "ray")
