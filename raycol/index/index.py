"""`Index`: create, open and search an index in a folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raycol.errors import InputError
from raycol.index.codebook import Codebook, check_codec, default_centroids, train_codebook
from raycol.index.codebook_files import open_codebook, save_codebook
from raycol.index.document import Document, check_embeddings
from raycol.index.manifest import (
    Manifest,
    ModelInfo,
    commit_manifest,
    read_manifest,
    versions,
)
from raycol.index.partition import Partition, check_columns, infer_columns, write_partition
from raycol.index.search import N_PROBE, N_RESCORE, Hit, search, search_exact
from raycol.index.spool import Spool
from raycol.index.storage import unfinished_folder
from raycol.index.verify import verify_index

DOCUMENTS_PER_PARTITION = 16384


@dataclass(frozen=True)
class IndexStats:
    """What an index holds and what it takes on disk."""

    version: int
    documents: int
    tokens: int
    partitions: int
    dim: int
    bits: int
    n_centroids: int
    bytes: int

    @property
    def bytes_per_token(self) -> float:
        """All files of the index, codebook included, over its tokens."""
        return self.bytes / self.tokens


class Index:
    """A snapshot of an index: one version, whatever is committed later.

    Make one with `Index.create` or `Index.open`.
    """

    def __init__(self, root: Path, manifest: Manifest, partition_ids: Iterable[str] | None = None):
        chosen = None if partition_ids is None else set(partition_ids)
        if chosen and (unknown := chosen - {info.id for info in manifest.partitions}):
            raise InputError(f"{root}: version {manifest.version} has no partition {min(unknown)!r}")
        self.root = root
        self.manifest = manifest
        self.codebook: Codebook = open_codebook(root, manifest.codebook, manifest.dim, manifest.bits)
        self.partitions = [
            Partition.open(root, info, self.codebook, manifest.columns)
            for info in manifest.partitions
            if chosen is None or info.id in chosen
        ]

    @classmethod
    def create(
        cls,
        path: str | Path,
        documents: Iterable[Document],
        *,
        bits: int = 4,
        seed: int = 0,
        n_centroids: int | None = None,
        documents_per_partition: int = DOCUMENTS_PER_PARTITION,
        model: ModelInfo | None = None,
    ) -> Index:
        """Build an index: train the codebook on a seeded sample, then quantise everything.

        `documents` is consumed once. Embeddings wait in a temporary file on disk, not in memory.

        Args:
            path: a folder that holds no index yet.
            documents: any iterable, generators included.
            bits: bits a dimension of the residual, 1, 2, 4 or 8.
            seed: seeds the sample and k-means; the same documents and seed give the same bytes.
            n_centroids: centroids of the codebook; None takes PLAID's 2^floor(log2(16 sqrt(tokens))).
            documents_per_partition: documents a partition.
            model: the encoder the embeddings came from, if it is to be remembered.

        Raises:
            InputError: no documents, an unusable one (named), or an index there already.
        """
        root = Path(path)
        check_new(root)
        if documents_per_partition < 1:
            raise InputError(f"documents_per_partition is {documents_per_partition}; expected 1 or more")
        with _removed_if_empty(root), unfinished_folder(root) as workspace:
            spool = Spool.fill(workspace, documents)
            check_codec(spool.dim, bits)
            sample_TD = spool.sample(seed)
            codebook = train_codebook(
                sample_TD,
                bits=bits,
                n_centroids=n_centroids or default_centroids(spool.n_tokens, len(sample_TD)),
                seed=seed,
            )
            columns = infer_columns(spool.metadata)
            for id_, metadata in zip(spool.ids, spool.metadata, strict=True):
                check_columns(id_, metadata, columns)
            partitions = [
                write_partition(root, spool.read(start, start + documents_per_partition), codebook, columns)
                for start in range(0, len(spool.ids), documents_per_partition)
            ]
            manifest = Manifest(
                version=1,
                dim=codebook.dim,
                bits=codebook.bits,
                seed=seed,
                columns=columns,
                model=model,
                codebook=save_codebook(root, codebook),
                partitions=tuple(partitions),
            )
        commit_manifest(root, manifest)
        return cls(root, manifest)

    @classmethod
    def open(cls, path: str | Path, version: int | None = None, partition_ids: Iterable[str] | None = None) -> Index:
        """Open one version of an index, by default the current one.

        Args:
            path: the index's folder.
            version: which version; None for the newest.
            partition_ids: only these partitions, as a shard does; None for all.

        Raises:
            InputError: there is no index, or no such version.
            IndexCorruptError: its files are not as its manifest promises.
        """
        root = Path(path)
        return cls(root, read_manifest(root, version), partition_ids)

    def search(
        self, queries: Sequence[Any], k: int = 10, *, n_probe: int = N_PROBE, n_rescore: int = N_RESCORE
    ) -> list[list[Hit]]:
        """The best `k` documents for each query, best first, equal scores by id.

        Args:
            queries: one float array [n_tokens, dim] a query (an array [queries, tokens, dim] is one too).
            k: hits a query; fewer where the index holds fewer documents.
            n_probe: centroids whose lists each query token visits. More finds more and costs more.
            n_rescore: documents scored exactly, k at least.

        Which documents are scored exactly is estimated on the footing that tokens have one length, as every
        late-interaction encoder makes them; `exact` scores tokens of any length.

        Raises:
            InputError: a query with no tokens, another dimension, NaN; k or a setting below 1.
        """
        for name, value in (("k", k), ("n_probe", n_probe), ("n_rescore", n_rescore)):
            if value < 1:
                raise InputError(f"{name} is {value}; expected 1 or more")
        return [
            search(query_QD, self.codebook, self.partitions, k=k, n_probe=n_probe, n_rescore=n_rescore)
            for query_QD in self._check_queries(queries)
        ]

    def exact(self, queries: Sequence[Any], k: int = 10) -> list[list[Hit]]:
        """The best `k` documents for each query over every stored token: the reference for `search`."""
        if k < 1:
            raise InputError(f"k is {k}; expected 1 or more")
        return [
            search_exact(query_QD, self.codebook, self.partitions, k=k) for query_QD in self._check_queries(queries)
        ]

    def reconstruct(self, id: str) -> NDArray[np.float32]:  # noqa: A002
        """A document's embeddings as stored, float32 [n_tokens, dim]."""
        partition, position = self._find(id)
        return self.codebook.decode(partition.tokens(position))

    def metadata(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """The metadata of documents, in the order of `ids`."""
        found = (self._find(id_) for id_ in ids)
        return [partition.metadata.slice(row, 1).to_pylist()[0] for partition, row in found]

    def stats(self) -> IndexStats:
        """Counts and sizes."""
        manifest = self.manifest
        files = [*manifest.codebook.files.values()]
        files += [info for partition in manifest.partitions for info in partition.files.values()]
        return IndexStats(
            version=manifest.version,
            documents=manifest.documents,
            tokens=manifest.tokens,
            partitions=len(manifest.partitions),
            dim=manifest.dim,
            bits=manifest.bits,
            n_centroids=manifest.codebook.n_centroids,
            bytes=sum(info.bytes for info in files),
        )

    def verify(self) -> list[str]:
        """Read every byte of this version; return one line for each file that is not as promised."""
        return verify_index(self.root, self.manifest)

    def __len__(self) -> int:
        return sum(partition.info.documents for partition in self.partitions)

    def __repr__(self) -> str:
        return f"<Index {self.root} version {self.manifest.version}: {len(self)} documents>"

    @cached_property
    def _places(self) -> dict[str, tuple[Partition, int]]:
        return {
            id_: (partition, position) for partition in self.partitions for position, id_ in enumerate(partition.ids)
        }

    def _find(self, id_: str) -> tuple[Partition, int]:
        if id_ not in self._places:
            raise InputError(f"document {id_!r} is not in the index {self.root}")
        return self._places[id_]

    def _check_queries(self, queries: Sequence[Any]) -> Iterator[NDArray[np.float32]]:
        for number, query in enumerate(queries):
            yield check_embeddings(query, self.manifest.dim, f"query {number}")


def check_new(root: Path) -> None:
    """Raise `InputError` where `root` cannot take a new index."""
    if root.exists() and not root.is_dir():
        raise InputError(f"{root} is a file; expected a folder for the index, or a new name")
    if have := versions(root):
        raise InputError(f"{root}: holds an index already (version {have[-1]}); choose another folder or remove it")


@contextmanager
def _removed_if_empty(root: Path) -> Iterator[None]:
    """Leave no empty folder behind where a build is refused before anything was written."""
    try:
        yield
    finally:
        with suppress(OSError):
            root.rmdir()
