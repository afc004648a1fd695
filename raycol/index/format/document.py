"""`Document`, the unit of indexing, and the validation of ids and embeddings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raycol.core.validation import MAX_ID_BYTES
from raycol.errors import InputError
from raycol.index.format.columns import check_metadata

# Limit of the estimate counters in `kernels.candidates`.
MAX_QUERY_TOKENS = 8192

# Norms are stored as float16.
_MAX_NORM = 30000


@dataclass(frozen=True, slots=True)
class Document:
    """A document to index.

    Args:
        id: unique in the index, at most 512 bytes of UTF-8.
        embeddings: finite float array [n_tokens, dim] of at least one token.
        metadata: values by column name (str, int, float, bool, date, datetime or None), for filters and for display
            with hits.
    """

    id: str
    embeddings: NDArray[Any]
    metadata: dict[str, Any] = field(default_factory=dict)


def check_document(document: Any, dim: int | None) -> Document:
    """Return the document with float32 embeddings [n_tokens, dim] and plain Python metadata.

    Raises:
        InputError: the document is invalid; the message names it.
    """
    if not isinstance(document, Document):
        raise InputError(f"{document!r:.60} is a {type(document).__name__}; expected a Document")
    id_ = check_id(document.id)
    metadata = check_metadata(id_, document.metadata)
    return Document(id_, check_embeddings(document.embeddings, dim, f"document {id_!r}"), metadata)


def check_id(id_: Any) -> str:
    """Return a valid document id; raises `InputError`."""
    if not isinstance(id_, str) or not id_:
        raise InputError(f"document id {id_!r:.60}: expected a non-empty string")
    try:
        size = len(id_.encode())
    except UnicodeEncodeError:
        raise InputError(f"document id {id_!r}: not valid Unicode (half of a surrogate pair)") from None
    if size > MAX_ID_BYTES:
        raise InputError(f"document id {id_[:40]!r}...: {size} bytes; expected at most {MAX_ID_BYTES}")
    return id_


def check_embeddings(embeddings: Any, dim: int | None, name: str) -> NDArray[np.float32]:
    """Return embeddings as C-contiguous float32 [n_tokens, dim]; raises `InputError` that begins with `name`."""
    try:
        array = np.asarray(embeddings)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{name}: embeddings are not an array ({error})") from None
    if array.dtype.kind != "f":
        raise InputError(f"{name}: embeddings of type {array.dtype}; expected floating point")
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(f"{name}: embeddings of shape {array.shape}; expected [n_tokens, dim], at least 1 token")
    if dim is not None and array.shape[1] != dim:
        raise InputError(f"{name}: embeddings of {array.shape[1]} dimensions; the index has {dim}")
    with np.errstate(over="ignore"):  # a float64 out of float32's range becomes infinite; rejected below
        array = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"{name}: embeddings hold NaN or infinite values")
    max_norm = math.sqrt(np.einsum("td,td->t", array, array, dtype=np.float64).max())
    if max_norm > _MAX_NORM:
        raise InputError(f"{name}: a token embedding of norm {max_norm:.3g}; expected at most {_MAX_NORM}")
    return array


def encoded_text(metadata: Mapping[str, Any]) -> str | None:
    """A document's title and text as they were encoded; None if the index does not store the text."""
    if not isinstance(metadata.get("text"), str):
        return None
    return f"{metadata.get('title') or ''} {metadata['text']}".strip()
