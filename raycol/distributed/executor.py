"""Executors: run workers as actors on Ray Data, or one worker in this process.

Building, appending, mining, scoring and training take an executor. Both run the same worker classes over the same
inputs and write the same bytes. `IN_PROCESS` does not import Ray; `choose_executor` takes it where Ray gains nothing.

Inputs, results and errors are Python objects, which Ray serialises between raycol's own processes.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, get_args

from pydantic import Field

from raycol.core.config import Config, Positive, Resources, WaitForNodes
from raycol.core.progress import Report, no_report
from raycol.distributed.running_progress import RunningProgress, throttled
from raycol.distributed.session import is_embedded, ray_errors, ray_session
from raycol.errors import RaycolError

if TYPE_CHECKING:
    from ray.data import ActorPoolStrategy, Dataset

# Times that workers are started anew on one machine, after losing one, without finishing an input.
_MAX_LOST = 3

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")


class WorkersConfig(Config):
    """Number and resources of Ray Data workers."""

    num_workers: Positive | None = None
    """Number of workers; by default as many as fit on the cluster."""

    resources: Resources = Field({"CPU": 1.0}, validate_default=True)
    """Ray resources of each worker: CPU=1,GPU=0.5 puts two workers on a GPU; memory=4e9 is in bytes."""

    wait_for_nodes: WaitForNodes = 0.0
    """Seconds to wait for the autoscaler to add nodes if the workers do not fit on the cluster yet."""

    @property
    def placing(self) -> dict[str, float]:
        """The resources that tell nodes apart: all but CPU, GPU and memory."""
        return {name: amount for name, amount in self.resources.items() if name not in ("CPU", "GPU", "memory")}

    @property
    def processes_beside(self) -> int:
        """Most processes for each of the first and the last stage of a `StagedWorker`; 0: workers run all stages."""
        return 0

    @property
    def spare_cpus(self) -> int:
        """CPUs that the workers must leave to these stages."""
        return 2 if self.processes_beside else 0


class ModelWorkersConfig(WorkersConfig):
    """Number, resources and dtype of the Ray Data workers that hold a model."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Dtype of the encoder; auto is half precision on a GPU, float32 on a CPU."""

    @property
    def on_gpu(self) -> bool:
        """Whether workers compute on GPUs."""
        return self.resources.get("GPU", 0) > 0

    @property
    def model_arguments(self) -> dict[str, Any]:
        """Constructor arguments of workers that hold a model."""
        return {"on_gpu": self.on_gpu, "dtype": self.dtype}


@dataclass(frozen=True)
class _Task:
    """A row of the Ray Dataset: an input, or what a worker made of it, or the error that it raised."""

    number: int
    content: Any = None
    error: RaycolError | None = None


OnProgress = Callable[[int], None]
"""Called with the amount of the current input that is done, such as its documents."""


def ignore_progress(done: int) -> None:
    """Ignore the progress within an input."""


class Worker(ABC, Generic[I, R]):
    """Processes inputs, one per call.

    On a CPU it uses one thread, so that the bytes do not depend on the number of threads.
    """

    _opened = False
    on_progress: OnProgress = staticmethod(ignore_progress)

    def open(self) -> None:
        """Load a model: not in the constructor, whose errors would not reach the driver unchanged."""

    @abstractmethod
    def work(self, number: int, input_: I) -> R:
        """Process an input and return the result."""

    @abstractmethod
    def describe(self, number: int, input_: I) -> str:
        """Describe an input for error messages."""

    def process(self, number: int, input_: I) -> R:
        """Return the result of an input. Raises `RaycolError`; any other error becomes one that names the input."""
        try:
            if not self._opened:
                self.open()
                self._opened = True
            return self.work(number, input_)
        except RaycolError:
            raise
        except Exception as error:
            message = f"a worker failed on {self.describe(number, input_)}: {type(error).__name__}: {error}"
            raise RaycolError(message) from error

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[_Task]]:
        """Process a batch of one task on Ray Data.

        Returns the error instead of raising it. Ray Data wraps what a worker raises in an error of its own, which
        arrives without its cause, and prints a notice; with `raise_original_map_exception` the dataset hangs.
        """
        (task,) = batch["task"]
        if task.error is None:
            try:
                task = _Task(task.number, self.process(task.number, task.content))
            except RaycolError as error:
                traceback.print_exc()  # to the worker's log
                task = _Task(task.number, error=error)
        return {"task": [task]}


Stage = Literal["prepare", "compute", "finish"]


class StagedWorker(Worker[I, R]):
    """A worker whose work has three stages, of which only the second needs the worker's resources.

    By default it runs all of them. With `WorkersConfig.processes_beside`, Ray Data runs the first and the last in
    processes of their own, so that an accelerator need not wait for them; results go through the object store.
    """

    def open(self) -> None:
        """Load what all stages need."""
        self.open_for("compute")

    @abstractmethod
    def open_for(self, stage: Stage) -> None:
        """Load what a stage needs: for `compute`, what all need."""

    @abstractmethod
    def run_stage(self, stage: Stage, number: int, input_: Any) -> Any:
        """Return the result of a stage, from the result of the stage before it or the worker's input."""

    def work(self, number: int, input_: I) -> R:
        """Run all stages."""
        result: Any = input_
        for stage in get_args(Stage):
            result = self.run_stage(stage, number, result)
        return result  # type: ignore[no-any-return]


W = TypeVar("W", bound=type)


def _only(stage: Stage, worker: W) -> W:
    """Return a subclass of a staged worker that runs one stage; Ray shows it by the name of both."""

    class OneStage(worker):  # type: ignore[misc, valid-type]
        def open(self) -> None:
            self.open_for(stage)

        def work(self, number: int, input_: Any) -> Any:
            return self.run_stage(stage, number, input_)

    OneStage.__name__ = OneStage.__qualname__ = f"{worker.__name__}.{stage}"
    return OneStage  # type: ignore[return-value]


def _finish(worker: type[Worker[Any, Any]], arguments: Mapping[str, Any], batch: Mapping[str, Any]) -> Any:
    """Run a worker's call in a task."""
    return worker(**arguments)(batch)


Calls = Mapping[int, tuple[Any, ...]]
"""Arguments of each call, by the call's key."""


class Executor(ABC):
    """Runs worker classes over inputs, and functions over arguments."""

    in_process: bool
    """Whether all work runs in this process, without Ray."""

    @abstractmethod
    def session(self, config: WorkersConfig, report: Report = no_report) -> AbstractContextManager[None]:
        """Return a context in which workers can run. Raises `InputError` if the cluster is too small for them."""

    @abstractmethod
    def planning(self, config: WorkersConfig, report: Report = no_report) -> AbstractContextManager[None]:
        """Return a context for work on CPUs before `session`: a cluster need not have the workers' GPUs yet."""

    @abstractmethod
    def n_workers(self, config: WorkersConfig) -> int:
        """Return the number of concurrent workers."""

    @abstractmethod
    def n_nodes(self) -> int:
        """Return the number of machines that workers may run on."""

    @abstractmethod
    def run(
        self,
        worker: type[Worker[I, R]],
        config: WorkersConfig,
        inputs: Mapping[int, I],
        arguments: Mapping[str, Any],
        operation: str = "the build",
        on_progress: OnProgress = ignore_progress,
    ) -> Iterator[tuple[int, R]]:
        """Run a worker class over inputs, one per call; yield (number, result) pairs, in any order.

        Args:
            worker: a subclass of `Worker`.
            config: number, resources and dtype of the workers.
            inputs: the input of each call, by its number.
            arguments: constructor arguments of the worker class.
            operation: names the work in error messages.
            on_progress: called about once a second with the amount done of all unfinished inputs.

        Raises:
            RaycolError: a worker raised it, or failed otherwise.
        """

    @abstractmethod
    def call(
        self,
        function: Callable[..., Any],
        calls: Calls,
        operation: str,
        config: WorkersConfig,
        memory: Mapping[int, int],
    ) -> Iterator[tuple[int, Any]]:
        """Call a function with each tuple of arguments; yield (key, result) pairs, in any order.

        Args:
            function: what is called, on one CPU.
            calls: its arguments.
            operation: names the work in error messages.
            config: of the workers: calls are placed where they are, by resources other than CPU, GPU and memory.
            memory: bytes that each call needs. On Ray, calls run side by side only where the memory is.
        """


class _OnRay(Executor):
    in_process = False

    def session(self, config: WorkersConfig, report: Report = no_report) -> AbstractContextManager[None]:
        report(0, None, "starting Ray")
        return ray_session(config.num_workers or 1, config.wait_for_nodes, None, config.spare_cpus, **config.resources)

    def planning(self, config: WorkersConfig, report: Report = no_report) -> AbstractContextManager[None]:
        on_cluster = bool(os.environ.get("RAY_ADDRESS"))
        on_cpus = WorkersConfig(resources={"CPU": 1.0, **config.placing}, wait_for_nodes=config.wait_for_nodes)
        return self.session(on_cpus if on_cluster else config, report)

    def n_workers(self, config: WorkersConfig) -> int:
        import ray

        available = dict(ray.cluster_resources())
        available["CPU"] = available.get("CPU", 0) - config.spare_cpus
        capacity = min(int(available.get(name, 0) / amount + 1e-9) for name, amount in config.resources.items())
        return config.num_workers or max(capacity, 1)

    def n_nodes(self) -> int:
        import ray

        return sum(node["Alive"] for node in ray.nodes())

    def run(
        self,
        worker: type[Worker[I, R]],
        config: WorkersConfig,
        inputs: Mapping[int, I],
        arguments: Mapping[str, Any],
        operation: str = "the build",
        on_progress: OnProgress = ignore_progress,
    ) -> Iterator[tuple[int, R]]:
        from ray.exceptions import RayActorError

        missing, lost = dict(inputs), 0
        while missing:
            try:
                for number, result in self._run(worker, config, missing, arguments, operation, on_progress):
                    del missing[number]
                    lost = 0
                    yield number, result
            except RaycolError as error:
                lost += 1
                if not isinstance(error.__cause__, RayActorError) or not is_embedded() or lost > _MAX_LOST:
                    raise

    def _run(
        self,
        worker: type[Worker[I, R]],
        config: WorkersConfig,
        inputs: Mapping[int, I],
        arguments: Mapping[str, Any],
        operation: str,
        on_progress: OnProgress,
    ) -> Iterator[tuple[int, R]]:
        """Run the workers as the actors of one dataset.

        On a cluster, Ray restarts an actor that was lost with its node, for as long as it takes. On one machine a
        worker that dies was most likely short of memory, and would be again: there `run` starts new ones a few times.
        Restarts of actors whose arguments are in the object store also print an error of Ray's own.
        """
        import ray.data

        # Importing Ray Data configures its loggers; raycol reports progress and errors itself.
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        tasks = [{"task": _Task(number, input_)} for number, input_ in inputs.items()]
        progress = RunningProgress(on_progress)
        computing = progress.reporting(worker)
        staged = bool(config.processes_beside) and issubclass(worker, StagedWorker)
        dataset = ray.data.from_items(tasks, override_num_blocks=len(tasks))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray 2.64 is to have another way to say max_restarts
            if staged:
                n_beside = min(self._n_beside(config), len(tasks))
                reading = ray.data.ActorPoolStrategy(min_size=1, max_size=n_beside)
                # Without the workers' other resources: those of a node may be just enough for its workers.
                dataset = self._map(dataset, _only("prepare", worker), arguments, reading, {}, num_cpus=1)
                computing = progress.reporting(_only("compute", worker))
            workers = ray.data.ActorPoolStrategy(
                size=min(self.n_workers(config), len(tasks)), max_tasks_in_flight_per_actor=2
            )
            dataset = self._map(
                dataset,
                computing,
                arguments,
                workers,
                config.placing,
                num_cpus=config.resources["CPU"],
                num_gpus=config.resources.get("GPU"),
                memory=config.resources.get("memory"),
            )
            if staged:
                dataset = dataset.map_batches(
                    partial(_finish, _only("finish", worker), dict(arguments)),
                    batch_size=1,
                    compute=ray.data.TaskPoolStrategy(size=n_beside),
                    num_cpus=1,
                )
        # A part may take any time. By default Ray Data ends a dataset whose tasks are all running for half an hour.
        dataset.context.execution_no_progress_timeout_s = -1
        # Closed at once: an error keeps this frame, and the workers with it, until the caller has handled it.
        with ray_errors(operation), progress, closing(iter(dataset.iter_rows())) as rows:
            for row in rows:
                task: _Task = row["task"]
                if task.error:
                    raise task.error
                progress.finish(task.number)
                yield task.number, task.content

    def _map(
        self,
        dataset: Dataset,
        worker: type[Worker[Any, Any]],
        arguments: Mapping[str, Any],
        pool: ActorPoolStrategy,
        placing: Mapping[str, float],
        **resources: float | None,
    ) -> Dataset:
        """Append a worker class, as actors, to a dataset."""
        return dataset.map_batches(
            worker,
            fn_constructor_kwargs=dict(arguments),
            batch_size=1,
            compute=pool,
            **resources,
            **({"resources": dict(placing)} if placing else {}),
            **({"max_restarts": 0} if is_embedded() else {}),
        )

    def _n_beside(self, config: WorkersConfig) -> int:
        """Most processes of each stage beside the workers: no more than these leave CPUs."""
        import ray

        free = ray.cluster_resources().get("CPU", 0) - self.n_workers(config) * config.resources["CPU"]
        return min(config.processes_beside, max(int(free), 1))

    def call(
        self,
        function: Callable[..., Any],
        calls: Calls,
        operation: str,
        config: WorkersConfig,
        memory: Mapping[int, int],
    ) -> Iterator[tuple[int, Any]]:
        import ray

        remote = ray.remote(function)
        # More than any node has would wait forever.
        most = max(node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"])
        pending = {
            remote.options(memory=min(memory[key], most), resources=config.placing).remote(*arguments): key
            for key, arguments in calls.items()
        }
        with ray_errors(operation):
            while pending:
                (ready, *_), _ = ray.wait(list(pending))
                yield pending.pop(ready), ray.get(ready)


class _InProcess(Executor):
    in_process = True

    def session(self, config: WorkersConfig, report: Report = no_report) -> AbstractContextManager[None]:
        return nullcontext()

    def planning(self, config: WorkersConfig, report: Report = no_report) -> AbstractContextManager[None]:
        return nullcontext()

    def n_workers(self, config: WorkersConfig) -> int:
        return 1

    def n_nodes(self) -> int:
        return 1

    def run(
        self,
        worker: type[Worker[I, R]],
        config: WorkersConfig,
        inputs: Mapping[int, I],
        arguments: Mapping[str, Any],
        operation: str = "the build",
        on_progress: OnProgress = ignore_progress,
    ) -> Iterator[tuple[int, R]]:
        with _restored_torch_threads():
            instance = worker(**arguments)
            instance.on_progress = throttled(on_progress)
            for number, input_ in inputs.items():
                yield number, instance.process(number, input_)

    def call(
        self,
        function: Callable[..., Any],
        calls: Calls,
        operation: str,
        config: WorkersConfig,
        memory: Mapping[int, int],
    ) -> Iterator[tuple[int, Any]]:
        for key, arguments in calls.items():
            yield key, function(*arguments)


ON_RAY: Executor = _OnRay()
"""Actors on Ray Data, in an embedded session on this machine or on the cluster that this process belongs to."""

IN_PROCESS: Executor = _InProcess()
"""One worker in this process."""


def choose_executor(config: WorkersConfig, n_parts: int) -> Executor:
    """Return `IN_PROCESS` if there is one part and nothing asks for Ray, else `ON_RAY`.

    Starting Ray takes seconds, and a single part occupies a single worker. A number of workers, a resource other than
    CPUs, RAY_ADDRESS (set within Ray jobs too) and a Ray session of this process ask for Ray.

    Args:
        config: number and resources of the workers.
        n_parts: parts of the work, a worker's task each.
    """
    ray = sys.modules.get("ray")
    asks_for_ray = (
        config.num_workers is not None
        or set(config.resources) != {"CPU"}
        or bool(os.environ.get("RAY_ADDRESS"))
        or (ray is not None and ray.is_initialized())
    )
    return ON_RAY if asks_for_ray or n_parts > 1 else IN_PROCESS


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
