"""Create an index: validate and spool the documents, train the codebook, write the partitions, commit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from raycol.errors import InputError
from raycol.index.codec.codebook import check_codec
from raycol.index.codec.pooling import token_pooling
from raycol.index.codec.training import default_centroids, sample_tokens, train_codebook
from raycol.index.format.codebook_files import save_codebook
from raycol.index.format.columns import ColumnInference, ColumnType, check_columns, declared_columns
from raycol.index.format.document import Document
from raycol.index.format.manifest import Manifest, ModelInfo, commit_manifest, versions, writing_from
from raycol.index.format.partition_writer import write_partition
from raycol.index.write.spool import Spool
from raycol.storage.store import Store

PARTITION_TOKENS = 1 << 20
# Larger indexes get larger partitions instead of more: each one costs a query ten microseconds. But a worker holds one
# in memory to write it, so there are more of those of 16 million tokens (1.2 GB).
_MAX_PARTITIONS, _LARGE, _MAX_LARGE_PARTITIONS = 128, 1 << 24, 8192


def partition_tokens_for(n_tokens: int) -> int:
    """Return the target tokens per partition of an index of `n_tokens` tokens."""
    tokens = PARTITION_TOKENS
    while n_tokens > (_MAX_PARTITIONS if tokens < _LARGE else _MAX_LARGE_PARTITIONS) * tokens and tokens < 1 << 30:
        tokens *= 2
    return tokens


def create(
    store: Store,
    documents: Iterable[Document],
    *,
    bits: int,
    seed: int,
    n_centroids: int | None,
    partition_tokens: int,
    pool_factor: float,
    columns: Mapping[str, str] | None,
    model: ModelInfo | None,
) -> Manifest:
    """Build a new index and return its manifest; see `Index.create`."""
    check_new(store)
    check_codec(8, bits)
    if not 1 <= partition_tokens < 2**31:
        raise InputError(f"partition_tokens is {partition_tokens}; expected 1 to {2**31 - 1}")
    pool = token_pooling(pool_factor)
    inference = ColumnInference()
    declared = None if columns is None else declared_columns(columns)

    def validate(document: Document) -> None:
        check_codec(document.embeddings.shape[1], bits)
        if declared is None:
            inference.add(document.id, document.metadata)
        else:
            check_columns(document.id, document.metadata, declared)

    try:
        with writing_from(store, 0), store.workspace(0) as workspace, Spool(workspace) as spool:
            spool.fill(documents, validate, pool)
            if not spool.dim:
                raise InputError("no documents; an index needs at least one")
            column_types: Mapping[str, ColumnType] = inference.columns if declared is None else declared
            enough = sample_tokens(n_centroids or default_centroids(spool.n_tokens), spool.dim)
            sample_TD = spool.sample(seed, enough)
            codebook = train_codebook(
                sample_TD,
                bits=bits,
                n_centroids=n_centroids or default_centroids(spool.n_tokens, len(sample_TD)),
                seed=seed,
            )
            del sample_TD
            manifest = Manifest(
                version=1,
                dim=spool.dim,
                bits=bits,  # type: ignore[arg-type]
                seed=seed,
                partition_tokens=partition_tokens,
                pool_factor=pool_factor,
                columns=dict(column_types),
                model=model,
                codebook=save_codebook(store, codebook),
                partitions=tuple(
                    write_partition(store, batch, codebook, column_types)
                    for batch in spool.partitions(partition_tokens)
                ),
            )
        commit_manifest(store, manifest)
    except BaseException:
        store.remove_if_empty()
        raise
    return manifest


def check_new(store: Store) -> None:
    """Raise `InputError` unless a new index can be created in the store."""
    if have := versions(store):
        raise InputError(f"{store}: already holds an index (version {have[-1]}); choose another location or delete it")
    store.check_writable()
    store.check_commits()
