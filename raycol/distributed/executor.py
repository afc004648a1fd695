"""Where workers run: as actors on Ray Data, or one after another in this process.

Building, appending, mining, scoring and training take an executor. Both kinds run the same worker classes over the
same rows, so the bytes they write are the same; `IN_PROCESS` imports no Ray, which suits small inputs and tests.
"""

from __future__ import annotations

import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from typing import Any, Literal

from pydantic import Field

from raycol import errors
from raycol.core.config import Config, Positive, Resources, WaitForNodes
from raycol.distributed.session import ray_errors, ray_session


class WorkersConfig(Config):
    """Workers on Ray Data that hold a model: how many, of what, and what they compute in."""

    num_workers: Positive | None = None
    """Workers; by default as many as the cluster has room for."""

    resources: Resources = Field({"CPU": 1.0}, validate_default=True)
    """What each worker needs of the cluster: CPU=1,GPU=0.5 puts two on a GPU; memory=4e9 is in bytes."""

    wait_for_nodes: WaitForNodes = 0.0
    """Seconds to wait for nodes that the cluster's autoscaler adds, where it has no room for the workers yet."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """What the encoder computes in; auto is half precision on a GPU, float32 on a CPU."""

    @property
    def on_gpu(self) -> bool:
        """Whether workers compute on GPUs."""
        return self.resources.get("GPU", 0) > 0


Row = dict[str, Any]
Calls = Mapping[int, tuple[Any, ...]]
"""Arguments of a function by keys."""


class Executor(ABC):
    """Runs workers."""

    in_process: bool
    """Whether all work is done in this process, without Ray."""

    @abstractmethod
    def session(self, config: WorkersConfig) -> AbstractContextManager[None]:
        """Return a block in which workers can run. Raises `InputError` if there is too little for them."""

    @abstractmethod
    def n_workers(self, config: WorkersConfig) -> int:
        """Return the number of workers that run at once."""

    def run(
        self,
        worker: Callable[..., Any],
        config: WorkersConfig,
        rows: list[Row],
        arguments: Row,
        doing: str = "the build",
    ) -> Iterator[Row]:
        """Run a worker class over rows, one row a call; yield the rows it returns, in any order.

        Args:
            worker: a subclass of `raycol.indexing.workers.Worker`.
            config: number, resources and dtype of the workers.
            rows: the input of each call.
            arguments: arguments of the worker class, beside `on_gpu` and `dtype`.
            doing: names the work in error messages.

        Raises:
            RaycolError: a worker raised it, or failed otherwise.
        """
        made_with = {"on_gpu": config.on_gpu, "dtype": config.dtype, **arguments}
        with closing(self._run(worker, made_with, config, rows, doing)) as results:
            for row in results:
                if row["error"]:
                    kind, _, message = row["error"].partition(" ")
                    raise getattr(errors, kind)(message)
                yield row

    @abstractmethod
    def _run(
        self, worker: Callable[..., Any], made_with: Row, config: WorkersConfig, rows: list[Row], doing: str
    ) -> Generator[Row, None, None]:
        """Make workers with some arguments and yield what they return, an error perhaps."""

    @abstractmethod
    def call(self, function: Callable[..., Any], calls: Calls, doing: str) -> Iterator[tuple[int, Any]]:
        """Call a function with each tuple of arguments; yield the keys and results, in any order."""


class _OnRay(Executor):
    in_process = False

    def session(self, config: WorkersConfig) -> AbstractContextManager[None]:
        return ray_session(config.num_workers or 1, config.wait_for_nodes, **config.resources)

    def n_workers(self, config: WorkersConfig) -> int:
        import ray

        have = ray.cluster_resources()
        room = min(int(have.get(name, 0) / amount + 1e-9) for name, amount in config.resources.items())
        return config.num_workers or max(room, 1)

    def _run(
        self, worker: Callable[..., Any], made_with: Row, config: WorkersConfig, rows: list[Row], doing: str
    ) -> Generator[Row, None, None]:
        import ray.data

        # Importing Ray Data configures its loggers; progress is reported by raycol itself.
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        others = {name: amount for name, amount in config.resources.items() if name not in ("CPU", "GPU", "memory")}
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            worker,
            fn_constructor_kwargs=made_with,
            batch_size=1,
            memory=config.resources.get("memory"),
            compute=ray.data.ActorPoolStrategy(
                size=min(self.n_workers(config), len(rows)), max_tasks_in_flight_per_actor=2
            ),
            num_cpus=config.resources["CPU"],
            num_gpus=config.resources.get("GPU"),
            **({"resources": others} if others else {}),
        )
        with ray_errors(doing):
            yield from dataset.iter_rows()

    def call(self, function: Callable[..., Any], calls: Calls, doing: str) -> Iterator[tuple[int, Any]]:
        import ray

        run = ray.remote(function)
        waiting = {run.remote(*arguments): key for key, arguments in calls.items()}
        with ray_errors(doing):
            while waiting:
                (ready, *_), _ = ray.wait(list(waiting))
                yield waiting.pop(ready), ray.get(ready)


class _InProcess(Executor):
    in_process = True

    def session(self, config: WorkersConfig) -> AbstractContextManager[None]:
        return nullcontext()

    def n_workers(self, config: WorkersConfig) -> int:
        return 1

    def _run(
        self, worker: Callable[..., Any], made_with: Row, config: WorkersConfig, rows: list[Row], doing: str
    ) -> Generator[Row, None, None]:
        with _threads_kept():
            made = worker(**made_with)
            for row in rows:
                result = made({name: [value] for name, value in row.items()})
                yield {name: values[0] for name, values in result.items()}

    def call(self, function: Callable[..., Any], calls: Calls, doing: str) -> Iterator[tuple[int, Any]]:
        for key, arguments in calls.items():
            yield key, function(*arguments)


ON_RAY: Executor = _OnRay()
"""Actors on Ray Data: an embedded session of this machine, or the cluster that this process belongs to."""

IN_PROCESS: Executor = _InProcess()
"""One worker in this process."""


@contextmanager
def _threads_kept() -> Iterator[None]:
    """Restore torch's number of threads after a worker has set its own."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    try:
        yield
    finally:
        if torch:
            torch.set_num_threads(before)
