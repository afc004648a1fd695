"""Ray Data actors that hold a model: the base class, and the workers of a build, whose rows are parts of a corpus."""

from __future__ import annotations

import platform
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from raycol.core.memory import peak_memory
from raycol.errors import InputError, RaycolError
from raycol.index.format.codebook_files import open_codebook
from raycol.index.format.manifest import CodebookInfo, ModelInfo
from raycol.indexing.clock import Clock
from raycol.indexing.journal import Journal
from raycol.indexing.part import PartSettings, build_partition, encode_sample, release_memory
from raycol.indexing.plan import PartitionPlan
from raycol.storage import open_store

if TYPE_CHECKING:
    import torch
    from sentence_transformers import MultiVectorEncoder


class Worker:
    """Ray Data actor that holds a model.

    On a CPU it uses one thread, so that the bytes do not depend on the number of threads.
    """

    empty_result: ClassVar[Mapping[str, Any]]
    """The columns that `work` returns, with placeholder values, for a row whose work failed."""

    def __init__(self, on_gpu: bool, dtype: str) -> None:
        self.on_gpu = on_gpu
        self.dtype = dtype
        self._opened = False

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Process a batch of one row. Returns an error in the column `error`: Ray Data would lose its message."""
        row = {name: values[0] for name, values in batch.items()}
        try:
            if not self._opened:
                self.open()
                self._opened = True
            result = {"error": "", **self.work(row)}
        except RaycolError as error:
            result = {"error": f"{type(error).__name__} {error}", **self.empty_result}
        except Exception as error:
            traceback.print_exc()  # to the worker's log
            message = f"a worker failed on {self.describe(row)}: {type(error).__name__}: {error}"
            result = {"error": f"RaycolError {message}", **self.empty_result}
        return {name: [value] for name, value in result.items()}

    def open(self) -> None:
        """Load the model, before the first row; errors of the constructor would not reach the driver unchanged."""
        raise NotImplementedError

    def work(self, row: dict[str, Any]) -> dict[str, Any]:
        """Process a row and return the result."""
        raise NotImplementedError

    def describe(self, row: dict[str, Any]) -> str:
        """Describe a row for error messages."""
        raise NotImplementedError


class _PartWorker(Worker):
    """Processes parts of a corpus, with an encoder unless documents come encoded."""

    def __init__(self, settings: str, model: str | None, on_gpu: bool, dtype: str) -> None:
        super().__init__(on_gpu, dtype)
        self.settings = PartSettings.from_json(settings)
        self.encoder: MultiVectorEncoder | None = None
        self._model = ModelInfo.model_validate_json(model) if model else None

    def open(self) -> None:
        """Load the encoder."""
        if self._model:
            self.encoder = open_encoder(self._model.name, self.on_gpu, self.dtype, self._model.fingerprint)

    def describe(self, row: dict[str, Any]) -> str:
        """File and first line (row) of a part."""
        first = PartitionPlan.from_json(row["part"]).slices[0]
        return f"{first.file} from {'row' if first.file.is_table else 'line'} {first.start.number} on"


def open_encoder(model: str, on_gpu: bool, dtype: str, fingerprint: str | None = None) -> MultiVectorEncoder:
    """Load an encoder on a worker's device and in its dtype.

    Args:
        model: path, URI or hub name.
        on_gpu: compute on the GPU instead of in one CPU thread.
        dtype: `auto`, or the name of a torch dtype.
        fingerprint: expected fingerprint; a path may lead to another model on another node.

    Raises:
        InputError: the model cannot be loaded, or has another fingerprint.
    """
    from raycol.models.encoder import encoder_fingerprint, load_encoder

    encoder = load_encoder(model, device=device_of(on_gpu))
    if fingerprint:
        check_same_model(model, encoder_fingerprint(encoder), fingerprint)
    cast_parameters(encoder, on_gpu, dtype)
    return encoder


def device_of(on_gpu: bool) -> str:
    """Return a worker's torch device; on a CPU, also limit torch to one thread."""
    import torch

    if not on_gpu:
        torch.set_num_threads(1)
    elif not torch.cuda.is_available():
        raise RaycolError(
            f"the worker on {platform.node()} has a GPU that its torch cannot use; install a torch with CUDA there"
        )
    return "cuda" if on_gpu else "cpu"


def check_same_model(model: str, fingerprint: str, expected: str) -> None:
    """Raise `InputError` if a loaded model is not the one that the driver started with."""
    if fingerprint != expected:
        raise InputError(
            f"model {model!r} on {platform.node()} has fingerprint {fingerprint}, expected {expected}; put the same "
            "model on all nodes, and do not change it while the command runs"
        )


def cast_parameters(module: torch.nn.Module, on_gpu: bool, dtype: str) -> None:
    """Cast a module's parameters, after its fingerprint, which is of float32, is checked.

    Buffers keep their precision, as when a model is loaded in that dtype.
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

    def __init__(self, settings: str, model: str | None, on_gpu: bool, dtype: str, dim: int) -> None:
        super().__init__(settings, model, on_gpu, dtype)
        self.dim = dim

    empty_result = {"number": -1, "documents": 0, "dim": 0, "tokens": b"", "cpu_s": 0.0, "peak_bytes": 0}  # noqa: RUF012

    def work(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the token directions of the documents at the row's positions, with statistics."""
        clock = Clock()
        with clock("sample"):
            tokens_TD = encode_sample(
                PartitionPlan.from_json(row["part"]), row["positions"], self.settings, self.encoder, self.dim
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
    """Builds partitions, and records each in the journal before it returns."""

    empty_result = {"number": -1, "built": ""}  # noqa: RUF012

    def __init__(
        self,
        settings: str,
        model: str | None,
        on_gpu: bool,
        dtype: str,
        uri: str,
        codebook: str,
        dim: int,
        bits: int,
        journal: str,
    ) -> None:
        super().__init__(settings, model, on_gpu, dtype)
        self.store = open_store(uri)
        self.journal = Journal.from_name(self.store, journal)
        self._codec = CodebookInfo.model_validate_json(codebook), dim, bits

    def open(self) -> None:
        """Load the encoder and the codebook."""
        super().open()
        self.codebook = open_codebook(self.store, *self._codec)

    def work(self, row: dict[str, Any]) -> dict[str, Any]:
        """Build the row's part and return its `BuiltPart` as JSON."""
        part = PartitionPlan.from_json(row["part"])
        built = build_partition(part, self.settings, self.codebook, self.store, self.encoder)
        self.journal.save_built(int(row["number"]), built)
        release_memory()
        return {"number": int(row["number"]), "built": built.model_dump_json()}
