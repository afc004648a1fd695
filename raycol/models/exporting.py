"""`raycol export`: a model as one ONNX or OpenVINO graph, from token ids to unit vectors, with its tokenizer."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from logging import ERROR, getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from raycol.core.config import Config, LocalPath, Location
from raycol.core.shown import Shown
from raycol.errors import InputError, RaycolError, reason_of, writing
from raycol.models.discovery import find_checkpoint
from raycol.models.exported import GRAPHS, SETTINGS, ExportedEncoder, ExportedTask, ExportSettings, Format

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

# Largest difference to the model's own embeddings, of unit vectors in float32.
TOLERANCE = 1e-3
# Texts of several lengths: one token, a query, a document of sentences, one that is cut.
_PROBES = ("", "rain", "how do I copy a folder?", "Rain, wind and storms. " * 12, "word " * 1000)


class ExportConfig(Config):
    """Options of `raycol export`."""

    model: Location
    """Model to export: a folder, a URI or a hub name."""

    out: LocalPath
    """Folder of the exported model. It must not exist yet."""

    format: Format = "onnx"
    """Graph for ONNX Runtime (onnx), or for OpenVINO on Intel's processors (openvino)."""


@dataclass(frozen=True, repr=False)
class Exported(Shown):
    """Result of `raycol export`.

    Args:
        out: the folder.
        format: of the graph.
        bytes: size of the folder's files.
        max_difference: largest absolute difference to the model's embeddings, over texts of several lengths.
    """

    _main: ClassVar[tuple[str, ...]] = ("out", "format", "bytes", "max_difference")

    out: str
    format: Format
    bytes: int
    max_difference: float


def export_model(config: ExportConfig) -> Exported:
    """Write a model as a graph with its tokenizer, and compare its embeddings with the model's.

    Raises:
        InputError: `out` exists, a package is missing, or the model cannot be opened or exported.
        RaycolError: the graph's embeddings differ from the model's.
    """
    out = config.out
    if out.exists():
        raise InputError(f"{out}: already exists; choose another folder, or remove it")
    find_checkpoint(config.model)  # a missing model is reported before a missing package
    _check_packages(config.format)
    from raycol.models.encoder import load_encoder, quiet_transformers

    encoder = load_encoder(config.model, device="cpu")
    settings = _settings(encoder, config)
    unfinished = out.parent / f".{out.name}-unfinished"
    try:
        with writing(out):
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            encoder.tokenizer.backend_tokenizer.save(str(unfinished / "tokenizer.json"))
            (unfinished / SETTINGS).write_text(settings.model_dump_json(indent=1) + "\n", encoding="utf-8")
            (unfinished / "README.md").write_text(_readme(config, settings), encoding="utf-8")
            with quiet_transformers(), _quiet_exporter():
                _save_graph(encoder, unfinished, config)
            difference = _difference(encoder, ExportedEncoder(unfinished))
            if not difference <= TOLERANCE:
                raise RaycolError(
                    f"model {config.model!r}: the graph's embeddings differ from the model's by {difference:.2g}; "
                    f"expected at most {TOLERANCE:g}; nothing is written"
                )
            os.rename(unfinished, out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    size = sum(path.stat().st_size for path in out.iterdir())
    return Exported(str(out), config.format, size, difference)


def _check_packages(format_: Format) -> None:
    packages = ["onnx", "onnxscript", "onnxruntime" if format_ == "onnx" else "openvino"]
    for package in packages:
        try:
            __import__(package)
        except ImportError:
            raise InputError(f"the package {package} is missing; pip install 'raycol[{format_}]'") from None


def _settings(encoder: MultiVectorEncoder, config: ExportConfig) -> ExportSettings:
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    from raycol.models.encoder import encoder_fingerprint
    from raycol.models.tokenization import prompt_of

    transformer, *rest = encoder
    kinds = [type(module) for module in rest]
    mask = next((module for module in rest if isinstance(module, MultiVectorMask)), None)
    reason = ""
    if type(transformer) is not Transformer or not {*kinds} <= {Dense, Normalize, MultiVectorMask}:
        reason = f"it has a {next((kind for kind in kinds if kind not in (Dense, Normalize, MultiVectorMask)), 0)}"
    elif mask is not None and mask.keep_only_token_ids:
        reason = "it embeds an allowlist of tokens only"
    elif getattr(encoder.tokenizer, "backend_tokenizer", None) is None:
        reason = "its tokenizer has no tokenizer.json"
    elif encoder.tokenizer.padding_side != "right":
        reason = "it pads on the left"
    if reason:
        raise InputError(f"model {config.model!r} cannot be exported: {reason}")
    expansion, tokenizer = transformer.query_expansion, encoder.tokenizer
    token = expansion["token"] if expansion else None
    expansion_id = tokenizer.convert_tokens_to_ids(token) if token else tokenizer.mask_token_id
    skipped: dict[str, tuple[int, ...]] = {}
    if mask is not None and mask._skiplist_ids is not None:
        skipped = dict.fromkeys(mask.skiplist_tasks, tuple(mask._skiplist_ids.tolist()))
    longest = encoder.max_seq_length
    fixed = expansion is not None and expansion["strategy"] == "fixed"
    return ExportSettings(
        format=config.format,
        dimension=encoder.get_embedding_dimension(),
        fingerprint=encoder_fingerprint(encoder),
        pad_id=tokenizer.pad_token_id,
        query=ExportedTask(
            prompt=prompt_of(encoder, "query"),
            max_length=expansion["length"] if fixed else transformer.query_length or longest,
            expand_to=expansion["length"] if expansion else 0,
            expansion_id=(tokenizer.eos_token_id if expansion_id is None else expansion_id) if expansion else 0,
            attend_to_expansion=bool(expansion and expansion["attend"]),
            skipped_ids=skipped.get("query", ()),
        ),
        document=ExportedTask(
            prompt=prompt_of(encoder, "document"),
            max_length=transformer.document_length or longest,
            skipped_ids=skipped.get("document", ()),
        ),
    )


def _save_graph(encoder: MultiVectorEncoder, folder: Path, config: ExportConfig) -> None:
    import torch
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    class Graph(torch.nn.Module):
        """Token ids and attention mask, [B, T] each, to unit vectors [B, T, D]."""

        def __init__(self) -> None:
            super().__init__()
            self.backbone = encoder[0].auto_model
            self.heads = torch.nn.ModuleList(
                each for each in list(encoder)[1:] if not isinstance(each, MultiVectorMask)
            )

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            tokens = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            features = {"token_embeddings": tokens}
            for head in self.heads:
                features = head(features)
            return features["token_embeddings"]

    onnx = folder / GRAPHS["onnx"]
    example = torch.ones((2, 7), dtype=torch.long)
    any_size = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    try:
        program = torch.onnx.export(
            Graph().eval(),
            (example, example.clone()),
            dynamo=True,
            input_names=["input_ids", "attention_mask"],
            output_names=["token_embeddings"],
            dynamic_shapes=(any_size, any_size),
            verbose=False,
        )
        program.save(str(onnx))
        if config.format == "openvino":
            import openvino

            openvino.save_model(
                openvino.convert_model(str(onnx)), str(folder / GRAPHS["openvino"]), compress_to_fp16=False
            )
            for path in folder.glob(f"{onnx.name}*"):
                path.unlink()
    except OSError:
        raise
    except Exception as error:
        # The exporters raise various exceptions for operations that they lack.
        raise InputError(f"model {config.model!r} cannot be exported: {reason_of(error)}") from error


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence the exporter's warnings about packages that these models do not need."""
    logger = getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _difference(encoder: MultiVectorEncoder, exported: ExportedEncoder) -> float:
    """Largest absolute difference of two encoders' embeddings; infinite if they embed other tokens."""
    from raycol.models.text_encoder import TextEncoder

    model = TextEncoder(encoder)
    pairs = [
        *zip(model.encode_query(_PROBES), exported.encode_query(_PROBES), strict=True),
        *zip(model.encode_document(_PROBES), exported.encode_document(_PROBES), strict=True),
    ]
    if any(ours.shape != theirs.shape for ours, theirs in pairs):
        return float("inf")
    return max(float(np.abs(ours - theirs).max(initial=0.0)) for ours, theirs in pairs)


def _readme(config: ExportConfig, settings: ExportSettings) -> str:
    query = settings.query
    expansion = (
        f"\n3. A query of fewer than {query.expand_to} tokens is padded to {query.expand_to} with the id "
        f"{query.expansion_id}, whose attention mask is {int(query.attend_to_expansion)}.\n"
        if query.expand_to
        else "\n"
    )
    return f"""\
# {Path(config.model).name}, exported by raycol

`{GRAPHS[settings.format]}` is a late-interaction (ColBERT-style) encoder in one graph, normalisation included.

| | name | type | shape |
|---|---|---|---|
| input | `input_ids` | int64 | [texts, tokens] |
| input | `attention_mask` | int64 | [texts, tokens] |
| output | `token_embeddings` | float32 | [texts, tokens, {settings.dimension}], unit vectors |

Both sizes are free. From a text to its embeddings, with the settings in `{SETTINGS}` for `query` and `document`:

1. Prepend `prompt` to the text.
2. Tokenize with `tokenizer.json`; cut to `max_length` tokens; pad with `pad_id`, attention mask 0.{expansion}
Padding has no embeddings, and neither have the tokens in `skipped_ids`; expansion tokens have.
The score of a document is the sum, over the query's tokens, of the largest dot product with a token of the document.

With raycol, which does all this without torch:

```python
import raycol
from raycol.models.discovery import find_checkpoint
from raycol.models.exported import ExportedEncoder

encoder = ExportedEncoder("this folder")
encoder.encode_query(["how do I copy a folder?"])[0].shape
raycol.Retriever("an index built with the model", model=encoder)
```
"""
