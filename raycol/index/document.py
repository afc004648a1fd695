"""A document as the index takes it: an id, one embedding a token, and metadata."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from raycol.data.corpus import MAX_ID_BYTES
from raycol.errors import InputError

# Types of metadata columns, as the manifest names them, and of the values that they hold.
ColumnType = Literal["string", "int64", "double", "bool"]
COLUMN_TYPES: dict[type, ColumnType] = {
    bool: "bool",
    int: "int64",
    float: "double",
    str: "string",
}


@dataclass(frozen=True, slots=True)
class Document:
    """One document to index.

    Args:
        id: the caller's own name for it, unique in the index, at most 512 bytes of UTF-8.
        embeddings: float array [n_tokens, dim], n_tokens at least 1, finite.
        metadata: values by column name (str, int, float, bool or None), returned with hits.
    """

    id: str
    embeddings: NDArray[Any]
    metadata: dict[str, Any] = field(default_factory=dict)


def check_document(document: Document, dim: int | None) -> NDArray[np.float32]:
    """Return the document's embeddings as float32 [n_tokens, dim].

    Raises:
        InputError: naming the document and what is wrong with it.
    """
    id_ = document.id
    if not isinstance(id_, str) or not id_:
        raise InputError(f"document id {id_!r}: expected a non-empty string")
    try:
        size = len(id_.encode())
    except UnicodeEncodeError:
        raise InputError(f"document id {id_!r}: not valid Unicode (half of a surrogate pair)") from None
    if size > MAX_ID_BYTES:
        raise InputError(f"document id {id_[:40]!r}...: {size} bytes; expected at most {MAX_ID_BYTES}")
    check_metadata(id_, document.metadata)
    return check_embeddings(document.embeddings, dim, f"document {id_!r}")


def check_metadata(id_: str, metadata: dict[str, Any]) -> None:
    """Raise `InputError` where a metadata column or value cannot be stored."""
    for name, value in metadata.items():
        where = f"document {id_!r}: metadata {name!r}"
        if not isinstance(name, str) or not name or name == "id":
            raise InputError(f"{where} is no column name; expected a non-empty string other than 'id'")
        if value is not None and type(value) not in COLUMN_TYPES:
            raise InputError(f"{where} is a {type(value).__name__}; expected str, int, float or bool")
        if type(value) is int and not -(2**63) <= value < 2**63:
            raise InputError(f"{where} is {value}; expected an integer of 64 bits")
        try:
            f"{name}{value}".encode()
        except UnicodeEncodeError:
            raise InputError(f"{where} is not valid Unicode (half of a surrogate pair)") from None


def check_embeddings(embeddings: Any, dim: int | None, name: str) -> NDArray[np.float32]:
    """Return `embeddings` as C-contiguous float32 [n_tokens, dim], or raise `InputError` naming `name`."""
    array = np.asarray(embeddings)
    if array.dtype.kind != "f":
        raise InputError(f"{name}: embeddings of type {array.dtype}; expected floating point")
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(f"{name}: embeddings of shape {array.shape}; expected [tokens, dim] with a token at least")
    if dim is not None and array.shape[1] != dim:
        raise InputError(f"{name}: embeddings of {array.shape[1]} dimensions; the index has {dim}")
    array = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"{name}: embeddings hold NaN or infinite values")
    return array
