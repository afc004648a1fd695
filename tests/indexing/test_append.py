"""Appending corpora in this process; test_crashes.py appends on a cluster."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import raycol.indexing.append as appending
from raycol.core.progress import no_report
from raycol.errors import InputError
from raycol.index import Document, Index
from raycol.indexing import AppendConfig, BuildReport, IndexConfig
from tests.conftest import make_clustered, make_passages, save_encoded, write_jsonl
from tests.indexing.cluster import contents
from tests.indexing.in_process import append_corpus, build_index

BATCHES, PER_BATCH = 10, 12


def save(path: Path, documents: list[np.ndarray], first: int) -> Path:
    return save_encoded(path, documents, [f"d{first + number}" for number in range(len(documents))])


def append(index: Path, corpus: Path, **settings: object) -> BuildReport:
    return append_corpus(AppendConfig(index=str(index), corpus=str(corpus), num_workers=1, **settings))


def answers(index: Index, queries: list[np.ndarray]) -> list[list[tuple[str, float]]]:
    return [[(hit.id, hit.score) for hit in hits] for hits in index.search(queries, k=20)]


@pytest.mark.long
def test_many_appends_equal_one_append(tmp_path: Path) -> None:
    documents = make_clustered(100 + BATCHES * PER_BATCH, 16, seed=5)
    few, whole = tmp_path / "few", tmp_path / "whole"
    corpus = save(tmp_path / "base.npz", documents[:100], 0)
    build_index(IndexConfig(corpus=str(corpus), out=str(few), num_workers=1))
    shutil.copytree(few, whole)
    rest = save(tmp_path / "rest.npz", documents[100:], 100)
    assert append(whole, rest, docs_per_partition=25).parts == 5
    for number in range(BATCHES):
        first = 100 + number * PER_BATCH
        batch = save(tmp_path / "batch.npz", documents[first : first + PER_BATCH], first)
        assert append(few, batch).version == 2 + number
    one, many = Index.open(whole), Index.open(few)
    assert len(one) == len(many) == len(documents)
    assert 1 + BATCHES >= many.stats().partitions > one.stats().partitions
    queries = [tokens[:5] for tokens in documents[::20]]
    expected = answers(one, queries)
    assert answers(many, queries) == expected
    one.compact()
    many.compact()
    assert answers(one, queries) == answers(many, queries) == expected
    one, many = Index.open(whole), Index.open(few)
    # The same documents in the same order give the same files, in folders with other version prefixes.
    assert [info.files for info in one.manifest.partitions] == [info.files for info in many.manifest.partitions]
    assert one.verify() == many.verify() == []


def interrupt(done: int, total: int | None, text: str) -> None:
    if text == "merging":
        raise KeyboardInterrupt


@pytest.mark.slow
def test_rerunning_a_command_that_died_after_its_commit_only_cleans_up(tmp_path: Path) -> None:
    """It adds no document twice, and does not refuse its own documents as existing."""
    documents = make_clustered(60, 16, seed=6)
    out, aside = tmp_path / "i", tmp_path / "aside"
    first, second = (save(tmp_path / f"{n}.npz", documents[n : n + 30], n) for n in (0, 30))
    config = IndexConfig(corpus=str(first), out=str(out), docs_per_partition=2, num_workers=1)
    addition = AppendConfig(index=str(out), corpus=str(second), docs_per_partition=2, num_workers=1)
    for version, command in enumerate((partial(build_index, config), partial(append_corpus, addition)), start=1):
        with pytest.raises(KeyboardInterrupt):
            command(interrupt)
        shutil.copytree(out, aside)
        assert command().version == version
        whole = contents(out)
        # The state between the commit and the cleanup.
        shutil.copytree(aside, out, dirs_exist_ok=True)
        (out / "build-report.json").unlink()
        report = command()
        assert (report.version, report.documents, report.reused_parts) == (version, 30, 15)
        assert contents(out) == whole
        shutil.rmtree(aside)
    assert len(Index.open(out)) == 60


@pytest.mark.slow
def test_an_interrupted_append_starts_again_after_another_writer_commits(tmp_path: Path) -> None:
    documents = make_clustered(40, 16, seed=7)
    out = tmp_path / "i"
    base, corpus = (save(tmp_path / f"{n}.npz", documents[n : n + 15], n) for n in (0, 15))
    build_index(IndexConfig(corpus=str(base), out=str(out), num_workers=1))
    addition = AppendConfig(index=str(out), corpus=str(corpus), docs_per_partition=1, num_workers=1)
    with pytest.raises(KeyboardInterrupt):
        append_corpus(addition, interrupt)
    Index.open(out).append([Document("other", documents[30])])
    report = append_corpus(addition)
    assert (report.version, report.documents, report.reused_parts) == (3, 15, 0)
    index = Index.open(out)
    assert len(index) == 31
    assert index.verify() == []


@pytest.mark.slow
def test_concurrent_appends_equal_consecutive_ones(tmp_path: Path) -> None:
    documents = make_clustered(60, 16, seed=8)
    at_once, in_turn = tmp_path / "at-once", tmp_path / "in-turn"
    base, slow, quick = (save(tmp_path / f"{n}.npz", documents[n : n + 20], n) for n in (0, 20, 40))
    build_index(IndexConfig(corpus=str(base), out=str(at_once), num_workers=1))
    shutil.copytree(at_once, in_turn)
    notes: list[str] = []

    def overtake(done: float, total: float | None, note: str) -> None:
        notes.append(note)
        # Another command commits its append when half of this one is built.
        if done and len(Index.open(at_once)) == 20:
            assert append(at_once, quick).version == 2

    report = append_corpus(
        AppendConfig(index=str(at_once), corpus=str(slow), docs_per_partition=10, num_workers=1), overtake
    )
    assert report.version == 3
    assert "another writer committed first: starting again from its version" in notes
    for corpus, size in ((quick, 2048), (slow, 10)):
        append(in_turn, corpus, docs_per_partition=size)
    one, other = Index.open(at_once), Index.open(in_turn)
    assert len(one) == 60
    assert one.manifest.partitions == other.manifest.partitions
    assert one.verify() == other.verify() == []


def test_a_document_that_a_concurrent_writer_added_is_refused(tmp_path: Path) -> None:
    documents = make_clustered(30, 16, seed=9)
    out = tmp_path / "i"
    base, corpus = (save(tmp_path / f"{n}.npz", documents[n : n + 15], n) for n in (0, 15))
    build_index(IndexConfig(corpus=str(base), out=str(out), num_workers=1))

    def overtake(done: float, total: float | None, note: str) -> None:
        if done and len(Index.open(out)) == 15:
            Index.open(out).append([Document("d20", documents[20])])

    addition = AppendConfig(index=str(out), corpus=str(corpus), docs_per_partition=5, num_workers=1)
    with pytest.raises(InputError, match="document 'd20' is already in the index"):
        append_corpus(addition, overtake)
    report = append_corpus(addition.model_copy(update={"upsert": True}))
    assert (report.documents, report.replaced, len(Index.open(out))) == (15, 1, 30)


@pytest.mark.parametrize("damaged", ["partitions/*/*", "codebooks/*/*", "builds/*/0*"])
@pytest.mark.parametrize("verb", ["build", "append"])
def test_a_damaged_finished_part_is_rebuilt(tmp_path: Path, verb: str, damaged: str) -> None:
    """A flipped bit, which does not change a file's length."""
    if (verb, damaged) == ("append", "codebooks/*/*"):
        return  # the index's own codebook, which verify checks
    documents = make_clustered(60, 16, seed=6)
    out, whole = tmp_path / "i", tmp_path / "whole"
    first, second = (save(tmp_path / f"{n}.npz", documents[n : n + 30], n) for n in (0, 30))

    def run(root: Path, report=no_report) -> BuildReport:
        if verb == "build":
            return build_index(IndexConfig(corpus=str(first), out=str(root), docs_per_partition=10), report)
        return append_corpus(AppendConfig(index=str(root), corpus=str(second), docs_per_partition=10), report)

    def stop(done: float, total: float | None = None, note: str = "") -> None:
        if "2 of 3 parts" in note:
            raise KeyboardInterrupt

    if verb == "append":
        build_index(IndexConfig(corpus=str(first), out=str(out)))
        shutil.copytree(out, whole)
    run(whole)
    with pytest.raises(KeyboardInterrupt):
        run(out, stop)
    start = "00000001-" if verb == "append" and "builds" not in damaged else ""
    path = next(path for path in sorted(out.glob(damaged)) if start in str(path))
    content = bytearray(path.read_bytes())
    # In a record, flip a digit, so that it still parses.
    content[content.index(b'"tokens":') + 9 if "builds" in damaged else len(content) // 2] ^= 2
    path.write_bytes(content)
    report = run(out)
    assert report.reused_parts == (0 if "codebooks" in damaged else 1)
    assert Index.open(out).verify() == []
    assert contents(out) == contents(whole)


def test_a_build_over_an_unfinished_one_with_other_settings_is_refused(tmp_path: Path) -> None:
    corpus, out = save(tmp_path / "c.npz", make_clustered(30, 16, seed=6), 0), tmp_path / "i"

    def build(stop_at: str = "", **settings: object) -> BuildReport:
        def report(done: float, total: float | None = None, note: str = "") -> None:
            if stop_at and stop_at in note:
                raise KeyboardInterrupt

        config = IndexConfig(corpus=str(corpus), out=str(out), **{"docs_per_partition": 10, **settings})
        return build_index(config, report)

    def unfinished() -> set[Path]:
        return set((out / "builds").iterdir())

    with pytest.raises(KeyboardInterrupt):
        build(" 0 of 3 parts", seed=1)
    without_parts = unfinished()
    with pytest.raises(KeyboardInterrupt):
        build(" 2 of 3 parts", bits=2)
    (folder,) = unfinished() - without_parts
    for settings in ({}, {"seed": 1}):
        with pytest.raises(
            InputError, match=rf"i: another command .* differs in bits \(2 there, 4 here\).* {folder} to"
        ):
            build(**settings)
    with pytest.raises(InputError, match=r"differs in docs_per_partition \(10 there, 9 here\), corpus .*; repeat"):
        build(bits=2, docs_per_partition=9)
    assert unfinished() == without_parts | {folder}
    assert build(bits=2).reused_parts == 2
    assert not (out / "builds").exists()
    with pytest.raises(InputError, match="already holds an index"):
        build()


def test_appends_with_other_settings_run_side_by_side(tmp_path: Path) -> None:
    documents = make_clustered(60, 16, seed=6)
    out = tmp_path / "i"
    base, one, other = (save(tmp_path / f"{n}.npz", documents[n : n + 20], n) for n in (0, 20, 40))
    build_index(IndexConfig(corpus=str(base), out=str(out)))

    def stop(done: float, total: float | None = None, note: str = "") -> None:
        if "2 of 4 parts" in note:
            raise KeyboardInterrupt

    slow = AppendConfig(index=str(out), corpus=str(one), docs_per_partition=5)
    with pytest.raises(KeyboardInterrupt):
        append_corpus(slow, stop)
    # It starts from the version that the other append commits, so that one must not remove it.
    later = out / "builds" / "00000002-0123456789abcdef"
    shutil.copytree(next((out / "builds").iterdir()), later)
    assert append(out, other, docs_per_partition=10).version == 2
    assert [path.name for path in (out / "builds").iterdir()] == [later.name]
    assert append_corpus(slow).version == 3
    assert len(Index.open(out)) == 60


@pytest.mark.slow
def test_an_index_takes_a_smaller_embedding_size(tiny_colbert: Path, tmp_path: Path) -> None:
    from raycol.models.encoder import load_encoder, load_index_encoder
    from raycol.models.matryoshka import record_sizes

    model, out, records = tmp_path / "model", tmp_path / "i", make_passages(12)
    shutil.copytree(tiny_colbert, model)
    record_sizes(model, (8, 4))
    texts = [write_jsonl(tmp_path / f"{n}.jsonl", records[n : n + 6]) for n in (0, 6)]
    config = IndexConfig(corpus=str(texts[0]), model=str(model), out=str(out), bits=8, num_workers=1)
    with pytest.raises(InputError, match="16 dimensions and was also trained for 4, 8; pass one of these"):
        build_index(config.model_copy(update={"embedding_size": 5}))
    build_index(config.model_copy(update={"embedding_size": 8}))
    append(out, texts[1])
    index, whole = Index.open(out), load_encoder(model, device="cpu")
    encoder = load_index_encoder(index.manifest.model, None, device="cpu")
    embeddings = []
    for one, size in ((whole, 16), (encoder, 8)):
        encoded = one.encode_document([f"{each['title']} {each['text']}" for each in records], convert_to_numpy=True)
        assert encoded[0].shape[1] == size
        embeddings.append([each[:, :8] / np.linalg.norm(each[:, :8], axis=1, keepdims=True) for each in encoded])
    for cut, own in zip(*embeddings, strict=True):
        np.testing.assert_allclose(cut, own, atol=1e-6)
    (hits,) = index.exact(encoder.encode_query(["rain wind"], convert_to_numpy=True), k=12)
    assert (index.manifest.dim, len(hits)) == (8, 12)


@pytest.fixture
def eight(tmp_path: Path) -> Path:
    """An index whose next append merges partitions: 500 documents, then seven appends of one."""
    documents = make_clustered(700, 16, seed=5)
    out = tmp_path / "i"
    corpus = save(tmp_path / "first.npz", documents[:500], 0)
    build_index(IndexConfig(corpus=str(corpus), out=str(out), num_workers=1))
    index = Index.open(out)
    for number in range(500, 507):
        index.append([Document(f"d{number}", documents[number])])
    return out


@pytest.mark.slow
@pytest.mark.parametrize("other", ["another append, compacted and vacuumed", "the same append"])
def test_an_append_that_merges_and_loses_a_race_starts_again(
    eight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    documents = make_clustered(700, 16, seed=5)
    corpus = save(tmp_path / "more.npz", documents[600:601], 600)
    commit, calls = appending.commit_change, []

    def overtaken(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1 and other == "the same append":
            commit(*arguments)
        elif len(calls) == 1:
            index = Index.open(eight)
            index.append([Document("other", documents[650])])
            index.compact()
            index.vacuum(1)
        return commit(*arguments)

    monkeypatch.setattr(appending, "commit_change", overtaken)
    append_corpus(AppendConfig(index=str(eight), corpus=str(corpus), num_workers=1))
    index = Index.open(eight)
    assert len(index) == 508 + (other != "the same append")
    assert "d600" in index


@pytest.mark.slow
def test_an_append_that_merged_and_died_before_its_cleanup_encodes_nothing_again(
    eight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = save(tmp_path / "more.npz", make_clustered(700, 16, seed=5)[600:606], 600)
    config = AppendConfig(index=str(eight), corpus=str(corpus), num_workers=1, docs_per_partition=2)

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(appending, "sweep", die)
        with pytest.raises(KeyboardInterrupt):
            append_corpus(config)
    before = Index.open(eight)
    report = append_corpus(config)
    assert (report.reused_parts, report.version) == (3, before.version)
    assert len(Index.open(eight)) == 513
    assert Index.open(eight).verify() == []
