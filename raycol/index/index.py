"""`Index`: the facade for creating, searching, changing and maintaining an index."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raycol.core.arguments import named_arguments
from raycol.core.threads import check_threads, map_threads
from raycol.core.validation import check_positive_int
from raycol.errors import InputError
from raycol.index.format.document import Document
from raycol.index.format.manifest import ModelInfo, SearchSettings
from raycol.index.search.pipeline import Answer, search
from raycol.index.searcher import Searcher, document_set_of
from raycol.index.write.changes import store_settings
from raycol.index.write.create import PARTITION_TOKENS, create
from raycol.index.write.tune import TuneResult, cheapest_settings
from raycol.index.writer import Writer
from raycol.storage import open_store


class Index(Searcher, Writer):
    """An index at one version, for searching and changing: `Index(uri)` opens one, `Index.create` builds one.

    An open index is a snapshot: commits of other processes do not affect it. A change made through this object commits
    a new version and moves the object to it.
    """

    @classmethod
    @named_arguments
    def create(
        cls,
        uri: str | Path,
        documents: Iterable[Document],
        *,
        bits: int = 4,
        seed: int = 0,
        n_centroids: int | None = None,
        partition_tokens: int = PARTITION_TOKENS,
        pool_factor: float = 1,
        columns: Mapping[str, str] | None = None,
        model: ModelInfo | None = None,
    ) -> Index:
        """Build an index: train the codebook on a seeded sample, then quantise all documents.

        Reads `documents` once and spools them to disk, so that memory stays bounded and a bad document fails the
        build before anything is quantised.

        Args:
            uri: a local path or a pyarrow.fs URI (`s3://bucket/prefix`) without an index.
            documents: any iterable, generators included.
            bits: bits per dimension of the residual: 1, 2, 4 or 8.
            seed: seeds the sample and k-means; the same documents and seed give the same bytes.
            n_centroids: size of the codebook; None uses PLAID's 2^floor(log2(16 sqrt(tokens))).
            partition_tokens: close a partition when it reaches this number of tokens.
            pool_factor: pool tokens hierarchically, to about 1 / pool_factor of them; also applied to documents added
                later.
            columns: types of the metadata columns by name (string, int64, double, bool, date, timestamp); None infers
                them from the values. Documents added later may use only these columns.
            model: the encoder of the embeddings, recorded in the manifest.

        Raises:
            InputError: no documents, an invalid document (named), or `uri` already holds an index. No files remain.
            ConflictError: another process created an index at `uri` meanwhile.
            RaycolError: writing failed (disk full, no permission). No index remains.
        """
        manifest = create(
            open_store(uri),
            documents,
            bits=bits,
            seed=seed,
            n_centroids=n_centroids,
            partition_tokens=partition_tokens,
            pool_factor=pool_factor,
            columns=columns,
            model=model,
        )
        return cls(uri, manifest.version)

    def tune(self, queries: Sequence[Any], target_recall: float = 0.95, *, k: int = 10) -> TuneResult:
        """Find the cheapest settings that reach a target recall@k, and store them in a new version.

        The stored settings become those of the default effort. Recall is measured against `exact`, which also takes
        most of the time; a few hundred representative queries are enough.

        Args:
            queries: as for `search`.
            target_recall: above 0, at most 1.
            k: hits per query.

        Raises:
            InputError: invalid queries, a target out of range, or one that no settings reach; nothing is stored.
            ConflictError: another writer committed first; nothing is stored.
        """
        k = check_positive_int("k", k)
        if not isinstance(target_recall, Real) or not 0 < target_recall <= 1:
            raise InputError(f"target_recall is {target_recall!r:.60}; expected above 0 and at most 1")
        checked = self._check_queries(queries)
        self._snapshot.check_writable()
        manifest = self.manifest
        if not checked or not manifest.documents:
            raise InputError(f"{self.uri}: nothing to tune on; expected at least one query and one document")
        document_set = document_set_of(self._snapshot, None, None, "ignore")

        def search_all(settings: SearchSettings) -> list[Answer]:
            def search_one(query_QD: NDArray[np.float32]) -> Answer:
                return search(
                    query_QD, document_set, k=k, settings=settings, n_centroids=self.codebook.n_centroids,
                    generator=self.generator, scorer=self.scorer,
                )  # fmt: skip

            return map_threads(search_one, checked, check_threads(None))

        settings, recall = cheapest_settings(
            search_all,
            self.exact(checked, k),
            target_recall=target_recall,
            k=k,
            sizes={
                "n_centroids": manifest.codebook.n_centroids,
                "n_tokens": manifest.tokens,
                "n_documents": manifest.documents,
                "query_tokens": sum(map(len, checked)) / len(checked),
            },
        )
        self._snapshot = store_settings(self._snapshot, settings)
        return TuneResult(settings, recall, self.version)
