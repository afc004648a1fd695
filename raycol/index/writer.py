"""`Writer`: commits new versions of an index, without searching it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Self

from raycol.index.format.document import Document
from raycol.index.format.snapshot import Snapshot
from raycol.index.search.selection import OnUnknown
from raycol.index.write.changes import Change, add_documents, delete_documents
from raycol.index.write.compact import compact
from raycol.index.write.vacuum import VacuumResult, vacuum
from raycol.index.write.verify import verify_index
from raycol.storage import open_store


class Writer:
    """Commits changes on top of a snapshot, and moves to the version of each commit.

    A change is committed only if the snapshot is still the newest version; otherwise it raises `ConflictError`.

    Args:
        uri: local path or URI of the index, whose newest version is opened.

    Raises:
        InputError: no index.
        IndexCorruptError: a file does not match the manifest.
    """

    def __init__(self, uri: str | Path) -> None:
        self._snapshot = Snapshot.open_version(open_store(uri))

    @classmethod
    def open(cls, uri: str | Path) -> Self:
        """Open the newest version, to change it: the same as the constructor."""
        return cls(uri)

    @property
    def version(self) -> int:
        """Number of the version that the next change starts from."""
        return self._snapshot.manifest.version

    def append(self, documents: Iterable[Document]) -> Change:
        """Add documents in one new version.

        Quantises them with the existing codebook; `stats().drift` shows whether it still fits.

        Raises:
            InputError: an invalid document, or a duplicate within `documents` or with the index; the message names it,
                and nothing is written.
            ConflictError: another writer committed first; nothing is changed. Open the index again and repeat.
            RaycolError: writing failed. The index keeps its version, unless the disk failed after the commit itself:
                open the index again to check.
        """
        self._snapshot, change = add_documents(self._snapshot, documents, replace=False)
        return change

    def upsert(self, documents: Iterable[Document]) -> Change:
        """Add documents, replacing existing ones of the same id, in one new version. Raises as `append` does."""
        self._snapshot, change = add_documents(self._snapshot, documents, replace=True)
        return change

    def delete(self, ids: Iterable[str], *, on_unknown: OnUnknown = "ignore") -> Change:
        """Delete documents in one new version. Their bytes remain until `compact`.

        Args:
            ids: ids of the documents.
            on_unknown: `refuse` raises if one of `ids` is not in the index, `ignore` skips it.
        """
        self._snapshot, change = delete_documents(self._snapshot, ids, on_unknown)
        return change

    def compact(self, target_tokens: int | None = None) -> int:
        """Merge small partitions and drop deleted documents, in one new version; return its number.

        Args:
            target_tokens: tokens per partition; None uses the index's `partition_tokens`. Partitions of less than half
                this size, and those with deleted documents, are rewritten.
        """
        if target_tokens is None:
            target_tokens = self._snapshot.manifest.partition_tokens
        self._snapshot = compact(self._snapshot, target_tokens)
        return self.version

    def vacuum(self, keep: int = 2, *, abandoned: bool = False) -> VacuumResult:
        """Remove all versions but the newest `keep`, and the files that only they use.

        Args:
            keep: number of versions to keep, at least 1.
            abandoned: also remove files that unfinished writers left since the current version; safe only while no
                writer is running.
        """
        return vacuum(self._snapshot.store, keep, abandoned=abandoned)

    def verify(self) -> list[str]:
        """Read every byte of every version; return one line per damaged, missing or unexpected file."""
        return verify_index(self._snapshot.store)
