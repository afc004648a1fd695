"""A snapshot: one version of an index with everything of it that is open."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from raycol.errors import IndexCorruptError, InputError
from raycol.index.codec.codebook import Codebook
from raycol.index.codec.codebook_files import open_codebook
from raycol.index.format.manifest import Manifest, PartitionInfo, read_manifest, versions
from raycol.index.format.partition import Partition
from raycol.storage import Store


@dataclass(frozen=True)
class Snapshot:
    """A manifest, its codebook and its partitions, or some of these."""

    store: Store
    manifest: Manifest
    codebook: Codebook
    partitions: tuple[Partition, ...]
    trusted: bool

    @classmethod
    def open(
        cls, store: Store, manifest: Manifest, partition_names: Iterable[str] | None = None, *, trusted: bool = False
    ) -> Snapshot:
        """Open what a manifest names.

        Raises:
            InputError: a partition that the manifest does not name.
            IndexCorruptError: files are not as promised.
        """
        chosen = None if partition_names is None else set(partition_names)
        if chosen and (unknown := chosen - {info.name for info in manifest.partitions}):
            raise InputError(f"{store}: version {manifest.version} has no partition {min(unknown)!r}")
        codebook = open_codebook(store, manifest.codebook, manifest.dim, manifest.bits)
        partitions = tuple(
            Partition.open(store, info, codebook, manifest.columns, trusted=trusted)
            for info in manifest.partitions
            if chosen is None or info.name in chosen
        )
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
        """Open a version, by default the newest, even while others commit and vacuum.

        Raises:
            InputError: there is no index, no such version, or no such partition.
            IndexCorruptError: files are not as promised.
        """
        while True:
            have = versions(store)
            try:
                manifest = read_manifest(store, version)
            except InputError:
                if version is not None or versions(store) == have:
                    raise
                continue  # the newest was vacuumed before it was read
            try:
                return cls.open(store, manifest, partition_names, trusted=trusted)
            except IndexCorruptError:
                if manifest.version in versions(store):
                    raise
                # It was vacuumed while it was being opened: there is a newer one, or `read_manifest` says which are.

    def next(self, manifest: Manifest) -> Snapshot:
        """The version that was just committed, or a newer one if that has been vacuumed; what is open stays open."""
        known = {partition.info.name: partition for partition in self.partitions}
        try:
            partitions = tuple(self._reopen(known.get(info.name), info) for info in manifest.partitions)
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
        # Only what is deleted differs.
        return partition.without(info)

    @property
    def whole(self) -> bool:
        """Whether every partition of the version is here."""
        return len(self.partitions) == len(self.manifest.partitions)
