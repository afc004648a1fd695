"""The version that a gateway serves: switched by a request, or by another gateway's record of the served version."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from raycol.client.schema import VersionResponse
from raycol.index.format.manifest import Manifest, read_manifest
from raycol.serving import metrics
from raycol.serving.deploy import check_same_model, manifest_to_serve
from raycol.serving.probing import Prober, probe_in_gateway
from raycol.serving.served_version import current_version, read_served_version, write_served_version
from raycol.serving.shard_calls import UnavailableError
from raycol.storage import Store

_SWITCH_S = 600.0
_SWITCH_ATTEMPTS = 5

log = logging.getLogger("ray.serve")


class VersionFollower:
    """The served version's manifest, and its prober; None if the shards probe.

    Args:
        store: of the index.
        deployed: the version at deployment.
        recorded_at: time of the served-version record at deployment.
        shards: handles of the shards.
    """

    def __init__(self, store: Store, deployed: int, recorded_at: int, shards: Sequence[Any]) -> None:
        self._store = store
        self._shards = shards
        # Time of the latest record that this gateway has applied.
        self._recorded_at = recorded_at
        self._switching = asyncio.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="probe")
        self.manifest = read_manifest(store, current_version(store, deployed, recorded_at))
        self.prober: Prober | None = None
        self.prober = self._open_prober(self.manifest)
        metrics.VERSION.set(self.manifest.version)

    async def switch(self, version: int | None) -> VersionResponse:
        """Serve another version: open it on every replica, record it, then serve it.

        Raises:
            InputError: the version does not exist, or has another model.
            UnavailableError: a shard could not open it; the served version does not change.
        """
        async with self._switching:
            before = self.manifest
            manifest = await asyncio.to_thread(manifest_to_serve, self._store, before, version)
            await self._prepare(manifest.version)
            prober = await asyncio.to_thread(self._open_prober, manifest)
            record = await asyncio.to_thread(
                write_served_version, self._store, manifest.version, newest=version is None
            )
            # Again, for replicas that started after the first call and read the old record.
            try:
                await self._prepare(manifest.version, attempts=1)
            except UnavailableError as error:
                log.warning("%s; its replicas open it on their first request", error)
            self._serve(manifest, prober, record.at)
            return VersionResponse(version=manifest.version, before=before.version)

    async def follow_record(self) -> None:
        """Serve the recorded version if the record is new."""
        async with self._switching:
            record = await asyncio.to_thread(read_served_version, self._store)
            if record is not None and record.at != self._recorded_at:
                manifest = await asyncio.to_thread(read_manifest, self._store, record.version)
                check_same_model(self.manifest, manifest)
                await self._prepare(manifest.version)
                self._serve(manifest, await asyncio.to_thread(self._open_prober, manifest), record.at)

    def _serve(self, manifest: Manifest, prober: Prober | None, recorded_at: int) -> None:
        log.warning("serving version %d in place of %d", manifest.version, self.manifest.version)
        self.manifest, self.prober, self._recorded_at = manifest, prober, recorded_at
        metrics.VERSION.set(manifest.version)

    async def _prepare(self, version: int, attempts: int = _SWITCH_ATTEMPTS) -> None:
        """Open a version on every replica of every shard; the served version stays open."""
        for attempt in range(1, attempts + 1):
            calls = [
                shard.broadcast("prepare", version, self.manifest.version).results_async() for shard in self._shards
            ]
            try:
                async with asyncio.timeout(_SWITCH_S):
                    await asyncio.gather(*calls)
                return
            except Exception as error:
                # Serve replaces a dead replica; the next attempt reaches its successor.
                if attempt == attempts:
                    detail = f"not every shard could open version {version} ({error!r:.200})"
                    raise UnavailableError(detail) from error
                await asyncio.sleep(attempt)

    def _open_prober(self, manifest: Manifest) -> Prober | None:
        """The prober of a version; None if its shards probe."""
        if not probe_in_gateway(len(self._shards), manifest.codebook.n_centroids):
            return None
        served = self.prober
        same = served is not None and served.codebook_name == manifest.codebook.name
        return served if same else Prober(self._store, manifest, self._pool)
