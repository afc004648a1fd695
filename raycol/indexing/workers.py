"""The workers of a build, which hold an encoder; their inputs are parts of a corpus."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raycol.core.memory import peak_memory, release_memory
from raycol.distributed.executor import Stage, StagedWorker, Worker
from raycol.distributed.partitioned_job import PartitionedJob
from raycol.errors import InputError, RaycolError
from raycol.index.format.codebook_files import open_codebook
from raycol.index.format.manifest import CodebookInfo, ModelInfo
from raycol.indexing.clock import Clock
from raycol.indexing.part import (
    BuiltPart,
    CodedPart,
    PartSettings,
    ReadTexts,
    code_embeddings,
    code_texts,
    encode_sample,
    read_texts,
    write_part,
)
from raycol.indexing.plan import PartitionPlan

if TYPE_CHECKING:
    import torch
    from sentence_transformers import MultiVectorEncoder


def open_encoder(
    model: str, on_gpu: bool, dtype: str, fingerprint: str | None = None, embedding_size: int | None = None
) -> MultiVectorEncoder:
    """Load an encoder on a worker's device and in its dtype.

    Args:
        model: path, URI or hub name.
        on_gpu: compute on the GPU instead of in one CPU thread.
        dtype: `auto`, or the name of a torch dtype.
        fingerprint: expected fingerprint, perhaps of a smaller embedding size; a path may lead to another model on
            another node.
        embedding_size: as in `load_encoder`.

    Raises:
        InputError: the model cannot be loaded, or has another fingerprint.
    """
    from raycol.models.encoder import cut_to, encoder_fingerprint, load_encoder

    encoder = load_encoder(model, device=device_of(on_gpu), embedding_size=embedding_size)
    if fingerprint and not cut_to(encoder, model, fingerprint):
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


def drop_weights(module: torch.nn.Module) -> None:
    """Free the weights of a model that only tokenises."""
    import torch

    for parameter in module.parameters():
        parameter.data = torch.empty(0, dtype=parameter.dtype)


def _dtype_of(on_gpu: bool, name: str) -> torch.dtype:
    import torch

    if name == "auto":
        name = "float32" if not on_gpu else "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    dtype: torch.dtype = getattr(torch, name)
    return dtype


@dataclass(frozen=True)
class PartSample:
    """The sampled documents of a part, by their positions in it."""

    part: PartitionPlan
    positions: list[int]


@dataclass(frozen=True)
class EncodedSample:
    """Token directions of a part's sample, float16 [T, dim], with the CPU seconds and peak memory of encoding them."""

    documents: int
    tokens_TD: NDArray[np.float16]
    cpu_s: float
    peak_bytes: int


class SampleEncoder(Worker[PartSample, EncodedSample]):
    """Encodes the sampled documents of a part.

    Args:
        on_gpu: compute on the GPU.
        dtype: of the encoder, as in `ModelWorkersConfig`.
        settings: of every part.
        model: the encoder; None if documents come encoded.
        dim: dimensions of a token.
    """

    def __init__(self, on_gpu: bool, dtype: str, settings: PartSettings, model: ModelInfo | None, dim: int) -> None:
        self.on_gpu, self.dtype = on_gpu, dtype
        self.settings, self.model, self.dim = settings, model, dim

    def open(self) -> None:
        """Load the encoder."""
        self.encoder = _open_model(self.model, self.on_gpu, self.dtype)

    def describe(self, number: int, input_: PartSample) -> str:
        """File and first line (row) of the part."""
        return input_.part.location

    def work(self, number: int, input_: PartSample) -> EncodedSample:
        """Encode the sample of a part."""
        clock = Clock()
        with clock("sample"):
            tokens_TD = encode_sample(
                input_.part, input_.positions, self.settings, self.encoder, self.dim, self.on_progress
            )
        return EncodedSample(len(input_.positions), tokens_TD, clock.cpu_s["sample"], peak_memory())


class PartitionBuilder(StagedWorker[PartitionPlan, BuiltPart]):
    """Builds partitions, and records each one before it returns.

    Args:
        job: the build; its store is the index.
        on_gpu, dtype: see `SampleEncoder`.
        settings: of every part.
        model: the encoder; None if documents come encoded.
        codebook, dim, bits: the codec.
    """

    def __init__(
        self,
        job: PartitionedJob[BuiltPart],
        on_gpu: bool,
        dtype: str,
        settings: PartSettings,
        model: ModelInfo | None,
        codebook: CodebookInfo,
        dim: int,
        bits: int,
    ) -> None:
        self.job = job
        self.on_gpu, self.dtype = on_gpu, dtype
        self.settings, self.model = settings, model
        self._codebook, self._dim, self._bits = codebook, dim, bits

    def open_for(self, stage: Stage) -> None:
        """Load the encoder and the codebook; to tokenise, the encoder without its weights; to write, nothing."""
        if stage == "compute":
            self.encoder = _open_model(self.model, self.on_gpu, self.dtype)
            self.codebook = open_codebook(self.job.store, self._codebook, self._dim, self._bits)
        elif stage == "prepare" and self.model:
            self.encoder = _open_model(self.model, False, "auto")
            drop_weights(self.encoder)

    def describe(self, number: int, input_: PartitionPlan | ReadTexts | CodedPart) -> str:
        """File and first line (row) of the part."""
        return input_.location

    def run_stage(self, stage: Stage, number: int, input_: Any) -> Any:
        """Read and tokenise, encode and quantise, or write a part; embeddings of the corpus are read by the second."""
        if stage == "prepare":
            result = read_texts(input_, self.settings, self.encoder) if self.model else input_
        elif stage == "finish":
            result = write_part(input_, self.settings, self._codebook.n_centroids, self.job.store)
            self.job.save(number, result)
        elif self.encoder:
            result = code_texts(input_, self.settings, self.codebook, self.encoder, self.on_progress)
        else:
            result = code_embeddings(input_, self.settings, self.codebook, self.on_progress)
        release_memory()
        return result


def _open_model(model: ModelInfo | None, on_gpu: bool, dtype: str) -> MultiVectorEncoder | None:
    return open_encoder(model.name, on_gpu, dtype, model.fingerprint) if model else None
