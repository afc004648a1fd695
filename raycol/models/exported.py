"""`ExportedEncoder`: a model that `raycol export` wrote, run by ONNX Runtime or OpenVINO, without torch.

A folder of an exported model:

    export.json             `ExportSettings`: how texts become token ids, which tokens have embeddings
    tokenizer.json          the tokenizer, of the package tokenizers
    model.onnx, or model.xml and model.bin
    README.md               inputs and outputs of the graph

Letters of shapes: B texts, T tokens of the longest, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from raycol.errors import InputError, reason_of

SETTINGS = "export.json"
GRAPHS = {"onnx": "model.onnx", "openvino": "model.xml"}
_BATCH_SIZE = 32

Format = Literal["onnx", "openvino"]


class ExportedTask(BaseModel):
    """How texts of a task, queries or documents, become token ids."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    prompt: str
    """Prepended to each text."""
    max_length: int
    """Tokens that a text is cut to, special tokens included."""
    expand_to: int = 0
    """Texts of fewer tokens are padded to this length with expansion tokens, which have embeddings too."""
    expansion_id: int = 0
    """Id of these tokens."""
    attend_to_expansion: bool = False
    """Whether their attention mask is 1."""
    skipped_ids: tuple[int, ...] = ()
    """Tokens that have no embeddings."""


class ExportSettings(BaseModel):
    """What an exported model's folder says about it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    format: Format
    dimension: int
    fingerprint: str
    """Of the model before the export: an index built with that one can be searched with this one."""
    pad_id: int
    query: ExportedTask
    document: ExportedTask


class ExportedEncoder:
    """An `Encoder` of a folder that `raycol export` wrote. Its embeddings equal the model's within 1e-3.

        raycol.Retriever("my-index", model=ExportedEncoder("exported"))

    Args:
        folder: the exported model.
        threads: threads of the runtime; by default one a core.

    Raises:
        InputError: the folder has no exported model, a file of it is missing or damaged, or the runtime's package is
            missing.
    """

    def __init__(self, folder: str | Path, *, threads: int = 0) -> None:
        from tokenizers import Tokenizer

        folder = Path(folder)
        try:
            self.settings = ExportSettings.model_validate_json((folder / SETTINGS).read_bytes())
        except FileNotFoundError:
            raise InputError(f"{folder}: no {SETTINGS}; expected a folder that raycol export wrote") from None
        except ValidationError as error:
            first = error.errors()[0]["msg"]
            raise InputError(f"{folder}: {SETTINGS} is not valid ({first}); export the model again") from None
        open_graph = {"onnx": _open_onnx, "openvino": _open_openvino}[self.settings.format]
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            self._run = open_graph(folder / GRAPHS[self.settings.format], threads)
        except InputError:
            raise
        except Exception as error:  # these libraries raise types of their own for missing and damaged files
            raise InputError(f"{folder}: cannot be opened ({reason_of(error)}); export the model again") from None
        self._tokenizer.no_padding()

    @property
    def dimension(self) -> int:
        """See `Encoder`."""
        return self.settings.dimension

    @property
    def fingerprint(self) -> str:
        """See `Encoder`."""
        return self.settings.fingerprint

    def encode_query(self, texts: Sequence[str], /) -> list[NDArray[np.float32]]:
        """See `Encoder`."""
        return self._encode(texts, self.settings.query)

    def encode_document(self, texts: Sequence[str], /) -> list[NDArray[np.float32]]:
        """See `Encoder`."""
        return self._encode(texts, self.settings.document)

    def _encode(self, texts: Sequence[str], task: ExportedTask) -> list[NDArray[np.float32]]:
        self._tokenizer.enable_truncation(task.max_length)
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch([task.prompt + text for text in texts])]
        encoded: dict[int, NDArray[np.float32]] = {}
        longest_first = sorted(range(len(ids)), key=lambda n: -len(ids[n]))
        for start in range(0, len(ids), _BATCH_SIZE):
            batch = longest_first[start : start + _BATCH_SIZE]
            ids_BT, attention_BT, scored_BT = padded([ids[n] for n in batch], task, self.settings.pad_id)
            tokens_BTD = self._run(ids_BT, attention_BT)
            encoded |= {
                n: tokens_TD[scored_T] for n, tokens_TD, scored_T in zip(batch, tokens_BTD, scored_BT, strict=True)
            }
        return [encoded[n] for n in range(len(ids))]


def padded(
    ids: Sequence[Sequence[int]], task: ExportedTask, pad_id: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Return the graph's inputs for texts of these token ids, and which tokens have embeddings, each [B, T]."""
    width = max(task.expand_to, *map(len, ids))
    ids_BT = np.full((len(ids), width), pad_id, dtype=np.int64)
    attention_BT = np.zeros((len(ids), width), dtype=np.int64)
    scored_BT = np.zeros((len(ids), width), dtype=bool)
    for row, text_ids in enumerate(ids):
        n, end = len(text_ids), max(len(text_ids), task.expand_to)
        ids_BT[row, :n], ids_BT[row, n:end] = text_ids, task.expansion_id
        attention_BT[row, :n], attention_BT[row, n:end] = 1, task.attend_to_expansion
        scored_BT[row, :end] = ~np.isin(ids_BT[row, :end], task.skipped_ids)
    return ids_BT, attention_BT, scored_BT


Graph = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]


def _open_onnx(path: Path, threads: int) -> Graph:
    try:
        import onnxruntime
    except ImportError:
        raise InputError("the package onnxruntime is missing; pip install 'raycol[onnx]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=onnxruntime.get_available_providers())

    def run(ids_BT: NDArray[np.int64], attention_BT: NDArray[np.int64]) -> Any:
        return session.run(None, {"input_ids": ids_BT, "attention_mask": attention_BT})[0]

    return run


def _open_openvino(path: Path, threads: int) -> Graph:
    try:
        import openvino
    except ImportError:
        raise InputError("the package openvino is missing; pip install 'raycol[openvino]'") from None
    # On some processors the default is bfloat16.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    model = openvino.Core().compile_model(str(path), "CPU", {name: value for name, value in settings.items() if value})

    def run(ids_BT: NDArray[np.int64], attention_BT: NDArray[np.int64]) -> Any:
        # The output's memory is reused by the next call.
        return np.array(model({"input_ids": ids_BT, "attention_mask": attention_BT})["token_embeddings"])

    return run
