"""An endpoint with gateway, encoder and shards in this process, without Ray.

It constructs the deployments that `build_app` binds, connected by the handles of `handles`. Requests go through ASGI
(`Served.app`), or to a uvicorn socket (`on_a_socket`).
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from typing import Any

import httpx2
import uvicorn

from raycol.index.format.manifest import Manifest, read_manifest
from raycol.serving.config import LOOPBACK, ServeConfig
from raycol.serving.run import RunningEndpoint
from raycol.storage import open_store
from tests.serving.handles import Handle


class Loop:
    """An event loop in its own thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="endpoint", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Any], timeout: float = 120) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)

    def close(self) -> None:
        async def cancel() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self.run(cancel())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()


class Transport(httpx2.BaseTransport):
    """Sends a client's requests to an ASGI application in another thread's event loop."""

    def __init__(self, app: Any, loop: Loop) -> None:
        self._inner = httpx2.ASGITransport(app, raise_app_exceptions=False)
        self._loop = loop

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        async def ask() -> httpx2.Response:
            asked = httpx2.Request(request.method, request.url, headers=request.headers, content=content)
            answer = await self._inner.handle_async_request(asked)
            return httpx2.Response(answer.status_code, headers=answer.headers, content=await answer.aread())

        content = request.read()
        return self._loop.run(ask())


class Served:
    """An endpoint in this process."""

    def __init__(self, config: ServeConfig) -> None:
        from ray.serve._private.common import DeploymentID, ReplicaID
        from ray.serve.context import _set_internal_replica_context
        from ray.serve.schema import ReplicaRank

        from raycol.serving.app import build_app
        from raycol.serving.gateway import api
        from raycol.serving.http.headers import HeaderMiddleware

        self.loop = Loop()
        bound = build_app(config.model_copy(update={"host": config.host or LOOPBACK}))._bound_deployment
        settings, encoder, shards = bound.init_args
        self.shards = [Handle(_made(shard)) for shard in shards]
        self.encoder = None if encoder is None else Handle(_made(encoder))

        async def start() -> Any:
            # As in a replica: routes get the object of their methods from Serve.
            name = ReplicaID("gateway", DeploymentID(name="gateway", app_name="raycol"))
            rank = ReplicaRank(rank=0, node_rank=0, local_rank=0)
            common = {"replica_id": name, "_deployment_config": None, "rank": rank, "world_size": 1}
            _set_internal_replica_context(servable_object=None, **common)
            plain = bound.func_or_class.__mro__[1]  # below what `serve.ingress` puts around it
            made = plain(settings, self.encoder, self.shards)
            _set_internal_replica_context(servable_object=made, **common)
            return made

        self.gateway = self.loop.run(start())
        self.app = HeaderMiddleware(api)

    @property
    def manifest(self) -> Manifest:
        return read_manifest(open_store(self.gateway.state.settings.index), self.gateway.state.settings.version)

    def client(self, **settings: Any) -> httpx2.Client:
        """A client of the application, without a socket."""
        return httpx2.Client(base_url="http://localhost", transport=Transport(self.app, self.loop), **settings)

    def close(self) -> None:
        from ray.serve import context

        context._INTERNAL_REPLICA_CONTEXT = None
        self.loop.close()


def _made(application: Any) -> Any:
    bound = application._bound_deployment
    return bound.func_or_class(*bound.init_args, **bound.init_kwargs)


@contextlib.contextmanager
def served_here(config: ServeConfig) -> Iterator[Served]:
    """Run an endpoint for a block; one at a time, since Serve's context and `Guard.settings` are per process."""
    served = Served(config)
    try:
        yield served
    finally:
        served.close()


@contextlib.contextmanager
def on_a_socket(served: Served) -> Iterator[RunningEndpoint]:
    """Serve it with uvicorn on a free loopback port."""
    server = uvicorn.Server(uvicorn.Config(served.app, host="127.0.0.1", port=0, lifespan="off", log_level="warning"))
    stopped = asyncio.run_coroutine_threadsafe(server.serve(), served.loop._loop)
    while not server.started:
        assert not stopped.done()
    address = server.servers[0].sockets[0].getsockname()
    try:
        yield RunningEndpoint(
            f"http://127.0.0.1:{address[1]}", served.manifest, len(served.shards), contextlib.ExitStack()
        )
    finally:
        server.should_exit = True
        stopped.result(30)
