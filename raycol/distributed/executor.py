"""Executors: run workers as actors on Ray Data, or one worker in this process.

Building, appending, mining, scoring and training take an executor. Both run the same worker classes over the same
rows and write the same bytes. `IN_PROCESS` does not import Ray, which suits small inputs and tests.
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
    """Number, resources and dtype of the Ray Data workers that hold a model."""

    num_workers: Positive | None = None
    """Number of workers; by default as many as fit on the cluster."""

    resources: Resources = Field({"CPU": 1.0}, validate_default=True)
    """Ray resources of each worker: CPU=1,GPU=0.5 puts two workers on a GPU; memory=4e9 is in bytes."""

    wait_for_nodes: WaitForNodes = 0.0
    """Seconds to wait for the autoscaler to add nodes if the workers do not fit on the cluster yet."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Dtype of the encoder; auto is half precision on a GPU, float32 on a CPU."""

    @property
    def on_gpu(self) -> bool:
        """Whether workers compute on GPUs."""
        return self.resources.get("GPU", 0) > 0


Row = dict[str, Any]
Calls = Mapping[int, tuple[Any, ...]]
"""Arguments of each call, by the call's key."""


class Executor(ABC):
    """Runs worker classes over rows, and functions over arguments."""

    in_process: bool
    """Whether all work runs in this process, without Ray."""

    @abstractmethod
    def session(self, config: WorkersConfig) -> AbstractContextManager[None]:
        """Return a context in which workers can run. Raises `InputError` if the cluster is too small for them."""

    @abstractmethod
    def n_workers(self, config: WorkersConfig) -> int:
        """Return the number of concurrent workers."""

    def run(
        self,
        worker: Callable[..., Any],
        config: WorkersConfig,
        rows: list[Row],
        arguments: Row,
        operation: str = "the build",
    ) -> Iterator[Row]:
        """Run a worker class over rows, one row per call; yield the rows it returns, in any order.

        Args:
            worker: a subclass of `raycol.indexing.workers.Worker`.
            config: number, resources and dtype of the workers.
            rows: the input of each call.
            arguments: constructor arguments of the worker class, besides `on_gpu` and `dtype`.
            operation: names the work in error messages.

        Raises:
            RaycolError: a worker raised it, or failed otherwise.
        """
        worker_arguments = {"on_gpu": config.on_gpu, "dtype": config.dtype, **arguments}
        with closing(self._run(worker, worker_arguments, config, rows, operation)) as results:
            for row in results:
                if row["error"]:
                    kind, _, message = row["error"].partition(" ")
                    raise getattr(errors, kind)(message)
                yield row

    @abstractmethod
    def _run(
        self, worker: Callable[..., Any], arguments: Row, config: WorkersConfig, rows: list[Row], operation: str
    ) -> Generator[Row, None, None]:
        """Construct workers with `arguments` and yield the rows they return, including rows that report an error."""

    @abstractmethod
    def call(self, function: Callable[..., Any], calls: Calls, operation: str) -> Iterator[tuple[int, Any]]:
        """Call a function with each tuple of arguments; yield (key, result) pairs, in any order."""


class _OnRay(Executor):
    in_process = False

    def session(self, config: WorkersConfig) -> AbstractContextManager[None]:
        return ray_session(config.num_workers or 1, config.wait_for_nodes, **config.resources)

    def n_workers(self, config: WorkersConfig) -> int:
        import ray

        available = ray.cluster_resources()
        capacity = min(int(available.get(name, 0) / amount + 1e-9) for name, amount in config.resources.items())
        return config.num_workers or max(capacity, 1)

    def _run(
        self, worker: Callable[..., Any], arguments: Row, config: WorkersConfig, rows: list[Row], operation: str
    ) -> Generator[Row, None, None]:
        import ray.data

        # Importing Ray Data configures its loggers; raycol reports progress itself.
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        others = {name: amount for name, amount in config.resources.items() if name not in ("CPU", "GPU", "memory")}
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            worker,
            fn_constructor_kwargs=arguments,
            batch_size=1,
            memory=config.resources.get("memory"),
            compute=ray.data.ActorPoolStrategy(
                size=min(self.n_workers(config), len(rows)), max_tasks_in_flight_per_actor=2
            ),
            num_cpus=config.resources["CPU"],
            num_gpus=config.resources.get("GPU"),
            **({"resources": others} if others else {}),
        )
        with ray_errors(operation):
            yield from dataset.iter_rows()

    def call(self, function: Callable[..., Any], calls: Calls, operation: str) -> Iterator[tuple[int, Any]]:
        import ray

        remote = ray.remote(function)
        pending = {remote.remote(*arguments): key for key, arguments in calls.items()}
        with ray_errors(operation):
            while pending:
                (ready, *_), _ = ray.wait(list(pending))
                yield pending.pop(ready), ray.get(ready)


class _InProcess(Executor):
    in_process = True

    def session(self, config: WorkersConfig) -> AbstractContextManager[None]:
        return nullcontext()

    def n_workers(self, config: WorkersConfig) -> int:
        return 1

    def _run(
        self, worker: Callable[..., Any], arguments: Row, config: WorkersConfig, rows: list[Row], operation: str
    ) -> Generator[Row, None, None]:
        with _restored_torch_threads():
            instance = worker(**arguments)
            for row in rows:
                result = instance({name: [value] for name, value in row.items()})
                yield {name: values[0] for name, values in result.items()}

    def call(self, function: Callable[..., Any], calls: Calls, operation: str) -> Iterator[tuple[int, Any]]:
        for key, arguments in calls.items():
            yield key, function(*arguments)


ON_RAY: Executor = _OnRay()
"""Actors on Ray Data, in an embedded session on this machine or on the cluster that this process belongs to."""

IN_PROCESS: Executor = _InProcess()
"""One worker in this process."""


@contextmanager
def _restored_torch_threads() -> Iterator[None]:
    """Restore torch's number of threads, which a worker sets, on exit."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    try:
        yield
    finally:
        if torch:
            torch.set_num_threads(before)
