"""Workers that hold a model, and those of a build: each row they are given is a part of a corpus."""

from __future__ import annotations

import platform
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from raycol.core.memory import peak_memory
from raycol.errors import InputError, RaycolError
from raycol.index.codec.codebook_files import open_codebook
from raycol.index.format.manifest import CodebookInfo, ModelInfo
from raycol.indexing.clock import Clock
from raycol.indexing.journal import Journal
from raycol.indexing.part import Task, build_partition, encode_sample, release_memory
from raycol.indexing.plan import PartitionPlan
from raycol.storage import open_store

if TYPE_CHECKING:
    import torch
    from sentence_transformers import MultiVectorEncoder


class Worker:
    """A model held by a Ray Data actor. One thread, so that the bytes do not depend on how many there are."""

    nothing: ClassVar[Mapping[str, Any]]
    """The columns of what `work` returns, for where it fails."""

    def __init__(self, on_gpu: bool, dtype: str) -> None:
        self.on_gpu = on_gpu
        self.dtype = dtype
        self._opened = False

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Take a batch of one row and return another. Errors come back in it: Ray Data would lose what they say."""
        row = {name: values[0] for name, values in batch.items()}
        try:
            if not self._opened:
                self.open()
                self._opened = True
            result = {"error": "", **self.work(row)}
        except RaycolError as error:
            result = {"error": f"{type(error).__name__} {error}", **self.nothing}
        except Exception as error:
            traceback.print_exc()  # goes to the worker's log
            what = f"a worker failed on {self.place_of(row)}: {type(error).__name__}: {error}"
            result = {"error": f"RaycolError {what}", **self.nothing}
        return {name: [value] for name, value in result.items()}

    def open(self) -> None:
        """Open what the work needs; not where the worker is made, from where no error comes back as itself."""
        raise NotImplementedError

    def work(self, row: dict[str, Any]) -> dict[str, Any]:
        """What is made of a row."""
        raise NotImplementedError

    def place_of(self, row: dict[str, Any]) -> str:
        """How messages name a row."""
        raise NotImplementedError


class _PartWorker(Worker):
    """Works on parts of a corpus, with an encoder where documents do not come encoded."""

    def __init__(self, task: str, model: str | None, on_gpu: bool, dtype: str) -> None:
        super().__init__(on_gpu, dtype)
        self.task = Task.from_json(task)
        self.encoder: MultiVectorEncoder | None = None
        self._model = ModelInfo.model_validate_json(model) if model else None

    def open(self) -> None:
        """The encoder."""
        if self._model:
            self.encoder = open_encoder(self._model.name, self.on_gpu, self.dtype, self._model.fingerprint)

    def place_of(self, row: dict[str, Any]) -> str:
        """Where a part begins."""
        first = PartitionPlan.from_json(row["part"]).slices[0]
        return f"{first.file} from {'row' if first.file.is_table else 'line'} {first.start.number} on"


def open_encoder(model: str, on_gpu: bool, dtype: str, fingerprint: str | None = None) -> MultiVectorEncoder:
    """The encoder as workers use it.

    Args:
        model: where it is.
        on_gpu: whether it computes on a GPU; else in one thread.
        dtype: `auto` or torch's name of one.
        fingerprint: what the model must have: paths may lead elsewhere on another node.

    Raises:
        InputError: no model there, or another one.
    """
    from raycol.models.encoder import encoder_fingerprint, load_encoder

    encoder = load_encoder(model, device=device_of(on_gpu))
    if fingerprint:
        check_same_model(model, encoder_fingerprint(encoder), fingerprint)
    cast_parameters(encoder, on_gpu, dtype)
    return encoder


def device_of(on_gpu: bool) -> str:
    """Where a worker computes: in one thread, which is set here, or on its GPU."""
    import torch

    if not on_gpu:
        torch.set_num_threads(1)
    elif not torch.cuda.is_available():
        raise RaycolError("a worker was given a GPU that its torch cannot use; install a torch with CUDA there")
    return "cuda" if on_gpu else "cpu"


def check_same_model(model: str, found: str, fingerprint: str) -> None:
    """Raise `InputError` where a model that was opened is not the one that the work began with."""
    if found != fingerprint:
        raise InputError(
            f"model {model!r} on {platform.node()} has the fingerprint {found}, the one that the work began with has "
            f"{fingerprint}; give all nodes the same model, and leave it as it is while the work goes on"
        )


def cast_parameters(module: torch.nn.Module, on_gpu: bool, dtype: str) -> None:
    """Turn a module that was checked (fingerprints are of float32) to what it is to compute in.

    Only parameters are cast, as loading does it: buffers keep their precision.
    """
    target = _dtype_of(on_gpu, dtype)
    for parameter in module.parameters():
        parameter.data = parameter.data.to(target)


def _dtype_of(on_gpu: bool, name: str) -> torch.dtype:
    import torch

    if name == "auto":
        name = "float32" if not on_gpu else "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    dtype: torch.dtype = getattr(torch, name)
    return dtype


class SampleEncoder(_PartWorker):
    """Encodes the sampled documents of one part."""

    def __init__(self, task: str, model: str | None, on_gpu: bool, dtype: str, dim: int) -> None:
        super().__init__(task, model, on_gpu, dtype)
        self.dim = dim

    nothing = {"number": -1, "documents": 0, "dim": 0, "tokens": b"", "cpu_s": 0.0, "peak_bytes": 0}  # noqa: RUF012

    def work(self, row: dict[str, Any]) -> dict[str, Any]:
        """The tokens of the documents at the row's positions."""
        clock = Clock()
        with clock("sample"):
            tokens_TD = encode_sample(
                PartitionPlan.from_json(row["part"]), row["positions"], self.task, self.encoder, self.dim
            )
        return {
            "number": int(row["number"]),
            "documents": len(row["positions"]),
            "dim": tokens_TD.shape[1],
            "tokens": tokens_TD.tobytes(),
            "cpu_s": clock.cpu_s["sample"],
            "peak_bytes": peak_memory(),
        }


class PartitionBuilder(_PartWorker):
    """Builds one partition after the other, and notes each in the journal before it tells of it."""

    nothing = {"number": -1, "built": ""}  # noqa: RUF012

    def __init__(
        self,
        task: str,
        model: str | None,
        on_gpu: bool,
        dtype: str,
        uri: str,
        codebook: str,
        dim: int,
        bits: int,
        journal: str,
    ) -> None:
        super().__init__(task, model, on_gpu, dtype)
        self.store = open_store(uri)
        self.journal = Journal.named(self.store, journal)
        self._codec = CodebookInfo.model_validate_json(codebook), dim, bits

    def open(self) -> None:
        """The encoder and the codebook."""
        super().open()
        self.codebook = open_codebook(self.store, *self._codec)

    def work(self, row: dict[str, Any]) -> dict[str, Any]:
        """What became of the row's part."""
        part = PartitionPlan.from_json(row["part"])
        built = build_partition(part, self.task, self.codebook, self.store, self.encoder)
        self.journal.save_built(int(row["number"]), built)
        release_memory()
        return {"number": int(row["number"]), "built": built.model_dump_json()}
