"""`Snapshot`: one opened version of an index."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from raycol.errors import IndexCorruptError, InputError
from raycol.index.codec.codebook import Codebook
from raycol.index.format.codebook_files import open_codebook
from raycol.index.format.manifest import (
    PARTITIONS,
    Manifest,
    PartitionInfo,
    check_current,
    read_manifest,
    versions,
)
from raycol.index.format.partition import Partition
from raycol.storage.store import Store


@dataclass(frozen=True)
class Snapshot:
    """A manifest with its opened codebook and partitions, or a shard's share of the partitions."""

    store: Store
    manifest: Manifest
    codebook: Codebook
    partitions: tuple[Partition, ...]
    trusted: bool

    @classmethod
    def open(
        cls, store: Store, manifest: Manifest, partition_names: Iterable[str] | None = None, *, trusted: bool = False
    ) -> Snapshot:
        """Open the codebook and the partitions of a manifest, all of them or those named.

        Raises:
            InputError: the manifest has no partition of a given name.
            IndexCorruptError: a file does not match the manifest.
        """
        selected = None if partition_names is None else set(partition_names)
        if selected and (unknown := selected - {info.name for info in manifest.partitions}):
            raise InputError(f"{store}: version {manifest.version} has no partition {min(unknown)!r}")
        codebook = open_codebook(store, manifest.codebook, manifest.dim, manifest.bits)
        chosen = [info for info in manifest.partitions if selected is None or info.name in selected]
        _check_lengths(store, chosen)
        partitions = tuple(Partition.open(store, info, codebook, manifest.columns, trusted=trusted) for info in chosen)
        return cls(store, manifest, codebook, partitions, trusted)

    @classmethod
    def open_version(
        cls,
        store: Store,
        version: int | None = None,
        partition_names: Iterable[str] | None = None,
        *,
        trusted: bool = False,
    ) -> Snapshot:
        """Open a version, by default the newest; safe while other processes commit and vacuum.

        Raises:
            InputError: no index, version or partition of that name.
            IndexCorruptError: a file does not match the manifest.
        """
        while True:
            existing = versions(store)
            try:
                manifest = read_manifest(store, version)
            except InputError:
                if version is not None or versions(store) == existing:
                    raise
                continue  # the newest version was vacuumed before its manifest was read
            try:
                return cls.open(store, manifest, partition_names, trusted=trusted)
            except IndexCorruptError:
                if manifest.version in versions(store):
                    raise
                # Vacuumed while opening: retry with the newest version; for a given one, `read_manifest` raises.

    def next(self, manifest: Manifest) -> Snapshot:
        """Return the snapshot of a version just committed, or of the newest if that was already vacuumed.

        Partitions of both versions are shared, not opened again.
        """
        opened = {partition.info.name: partition for partition in self.partitions}
        try:
            _check_lengths(self.store, [info for info in manifest.partitions if info.name not in opened])
            partitions = tuple(self._reopen(opened.get(info.name), info) for info in manifest.partitions)
        except IndexCorruptError:
            if manifest.version in versions(self.store):
                raise
            return Snapshot.open_version(self.store, trusted=self.trusted)
        return replace(self, manifest=manifest, partitions=partitions)

    def _reopen(self, partition: Partition | None, info: PartitionInfo) -> Partition:
        if partition is None:
            return Partition.open(self.store, info, self.codebook, self.manifest.columns, trusted=self.trusted)
        if partition.info == info:
            return partition
        # A partition is immutable, so only its deletes differ.
        return partition.with_deletes(info)

    def check_writable(self) -> None:
        """Raise `RaycolError` if the next version cannot be made from this snapshot."""
        if len(self.partitions) < len(self.manifest.partitions):
            raise InputError(f"{self.store}: only some partitions are open; open the whole index to change it")
        check_current(self.store, self.manifest.version)
        self.store.check_writable()
        self.store.check_commits()


def _check_lengths(store: Store, infos: Iterable[PartitionInfo]) -> None:
    """Check the lengths of partitions in an object store, in few requests; a local one is checked when opened."""
    if not store.is_local:
        store.check_lengths({f"{PARTITIONS}/{info.name}": info.files for info in infos})
