"""Verbs that build and change indexes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from raycol.core.arguments import named_arguments
from raycol.core.progress import progress
from raycol.data.corpus import OnError
from raycol.data.in_memory import stored_corpus
from raycol.errors import InputError
from raycol.indexing.config import AppendConfig, CompactConfig, IndexConfig, PlanConfig
from raycol.storage import open_store
from raycol.verbs.arguments import ONE_CPU, Corpus, Dtype, documented, settings_of
from raycol.verbs.overwriting import beside_index, folder_of, replaced

if TYPE_CHECKING:
    from raycol.index import Change, IndexStats, VacuumResult
    from raycol.indexing.compact import CompactReport
    from raycol.indexing.estimate import Estimate
    from raycol.indexing.report import BuildReport


@documented(IndexConfig)
def build_index(
    corpus: Corpus,
    *,
    id_column: str | None = None,
    title_column: str | None = None,
    text_column: str | None = None,
    make_ids: str | None = None,
    subset: str | None = None,
    split: str | None = None,
    num_workers: int | None = None,
    resources: Mapping[str, float] | str = ONE_CPU,
    wait_for_nodes: float = 0.0,
    dtype: Dtype = "auto",
    docs_per_partition: int = 4096,
    batch_tokens: int | None = None,
    cpu_workers: int | None = None,
    on_error: OnError = "fail",
    model: str | Path | None = None,
    embedding_size: int | None = None,
    bits: Literal[1, 2, 4, 8] = 4,
    pool_factor: float = 1.0,
    n_centroids: int | None = None,
    sample_documents: int | None = None,
    store_text: bool = True,
    metadata: Sequence[str] = (),
    embeddings_column: str | None = None,
    split_tokens: int | None = None,
    overlap: int = 0,
    out: str | Path,
    seed: int = 0,
    overwrite: bool = False,
) -> BuildReport:
    """Encode a corpus into an index on Ray Data; an interrupted build is continued by the same call.

        raycol.build_index([{"id": "1", "text": "Copy a tree.", "lang": "en"}], model=..., out="my-index",
                           metadata=["lang"])

    A corpus in memory is written to a temporary file once, beside `out`; a record is read as from a JSON Lines or
    Parquet file. Fields besides id, title and text are stored if `metadata` names them, as on the command line.

    Args:
        corpus: a path or a URI as on the command line; dicts (a list, or an iterator, which is read once); a pandas,
            polars or Arrow table; a Hugging Face Dataset or a Ray Dataset.
        overwrite: replace the index that an earlier build wrote to `out`, once the new one is complete; until then
            the old one can be searched. A local folder only.
    """
    from raycol.indexing.build import build_index as run
    from raycol.indexing.report import save_report

    values = locals()
    with replaced(IndexConfig, "build_index", {**values, "corpus": "-"}, "an index", beside_index) as (config, final):
        with stored_corpus(corpus, folder_of(final)) as stored, progress("Indexing") as report:
            update = {"corpus": stored.location, "metadata": stored.typed(config.metadata), "out": config.out}
            result = run(settings_of(IndexConfig, "build_index", {**values, **update}), report)
        if final != config.out:
            result = result.model_copy(update={"index": final})
            save_report(open_store(config.out), result)
    return result


@documented(AppendConfig)
def append_index(
    index: str | Path,
    corpus: Corpus,
    *,
    id_column: str | None = None,
    title_column: str | None = None,
    text_column: str | None = None,
    make_ids: str | None = None,
    subset: str | None = None,
    split: str | None = None,
    num_workers: int | None = None,
    resources: Mapping[str, float] | str = ONE_CPU,
    wait_for_nodes: float = 0.0,
    dtype: Dtype = "auto",
    docs_per_partition: int = 4096,
    batch_tokens: int | None = None,
    cpu_workers: int | None = None,
    on_error: OnError = "fail",
    model: str | Path | None = None,
    embeddings_column: str | None = None,
    upsert: bool = False,
) -> BuildReport:
    """Encode a corpus with an index's own encoder and append it, as one new version.

    Args:
        corpus: as for `build_index`. Metadata are the index's columns.
    """
    from raycol.indexing.append import append_corpus

    values = locals()
    with stored_corpus(corpus, folder_of(str(index))) as stored, progress("Appending") as report:
        return append_corpus(settings_of(AppendConfig, "append_index", {**values, "corpus": stored.location}), report)


@documented(PlanConfig)
def plan_index(
    corpus: Corpus,
    *,
    id_column: str | None = None,
    title_column: str | None = None,
    text_column: str | None = None,
    make_ids: str | None = None,
    subset: str | None = None,
    split: str | None = None,
    num_workers: int | None = None,
    resources: Mapping[str, float] | str = ONE_CPU,
    wait_for_nodes: float = 0.0,
    dtype: Dtype = "auto",
    docs_per_partition: int = 4096,
    batch_tokens: int | None = None,
    cpu_workers: int | None = None,
    on_error: OnError = "fail",
    model: str | Path | None = None,
    embedding_size: int | None = None,
    bits: Literal[1, 2, 4, 8] = 4,
    pool_factor: float = 1.0,
    n_centroids: int | None = None,
    sample_documents: int | None = None,
    store_text: bool = True,
    metadata: Sequence[str] = (),
    embeddings_column: str | None = None,
    split_tokens: int | None = None,
    overlap: int = 0,
) -> Estimate:
    """Estimate what an index build takes, from a sample of the corpus and rates measured on this machine.

    Args:
        corpus: as for `build_index`.
    """
    from raycol.indexing.estimate import estimate_build

    values = locals()
    with stored_corpus(corpus) as stored, progress("Sampling and measuring"):
        update = {"corpus": stored.location, "metadata": stored.typed(metadata)}
        return estimate_build(settings_of(PlanConfig, "plan_index", {**values, **update}))


@documented(CompactConfig)
def compact_index(
    index: str | Path,
    *,
    num_workers: int | None = None,
    resources: Mapping[str, float] | str = ONE_CPU,
    wait_for_nodes: float = 0.0,
    target_tokens: int | None = None,
    partitions: str | Sequence[str] = (),
) -> CompactReport:
    """Merge small partitions and drop deleted documents on Ray Data, as one new version."""
    from raycol.indexing.compact import compact_index as run

    config = settings_of(CompactConfig, "compact_index", locals())
    with progress("Compacting") as report:
        return run(config, report)


@named_arguments
def delete_documents(index: str | Path, ids: Iterable[str], *, refuse_unknown: bool = False) -> Change:
    """Delete documents, as one new version. Compaction removes their bytes.

    Args:
        index: folder or URI of the index.
        ids: documents to delete.
        refuse_unknown: fail if a document is not in the index.
    """
    from raycol.index import Index

    if isinstance(ids, str):
        raise InputError(f"ids is {ids!r:.60}; expected a list of ids")
    return Index(index).delete(list(ids), on_unknown="refuse" if refuse_unknown else "ignore")


@named_arguments
def vacuum_index(index: str | Path, *, keep: int = 2, abandoned: bool = False) -> VacuumResult:
    """Remove old versions, and files that no remaining version references.

    Args:
        index: folder or URI of the index.
        keep: number of versions to keep, including the current one.
        abandoned: also remove files of unfinished writers. Only safe while no writer runs.
    """
    from raycol.index.write.vacuum import vacuum

    return vacuum(open_store(index), keep, abandoned=abandoned)


@named_arguments
def migrate_index(index: str | Path, out: str | Path) -> IndexStats:
    """Write an index of format version 2 again in the present format, with the same hits.

    Nothing is encoded or quantised again; deleted documents are left out.

    Args:
        index: folder or URI of the old index, which stays as it is.
        out: folder or URI of the new one.
    """
    from raycol.index import Searcher
    from raycol.index.write.migrate import migrate

    with progress("Migrating") as report:
        migrate(open_store(index), open_store(out), report)
    return Searcher(out).stats()


@named_arguments
def verify_index(index: str | Path) -> list[str]:
    """Read every byte of an index and check it against the manifests' checksums.

    Returns:
        A line for each damaged, missing or unexpected file; none for an intact index.
    """
    from raycol.index.write.verify import verify_index as run

    return run(open_store(index))


@named_arguments
def index_info(index: str | Path, *, version: int | None = None) -> IndexStats:
    """Return an index's counts, sizes and codebook drift.

    Args:
        index: folder or URI of the index.
        version: version to open; by default the newest.
    """
    from raycol.index import Searcher

    return Searcher(index, version).stats()
