"""A document as the index takes it: an id, one embedding a token, and metadata."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raycol.data.corpus import MAX_ID_BYTES
from raycol.errors import InputError
from raycol.index.format.columns import check_metadata

# More would not fit the counters of `kernels.candidates`, and no model makes them.
MAX_QUERY_TOKENS = 1024

# A token's length is kept in float16.
_MAX_LENGTH = 30000


@dataclass(frozen=True, slots=True)
class Document:
    """One document to index.

    Args:
        id: the caller's own name for it, unique in the index, at most 512 bytes of UTF-8.
        embeddings: float array [n_tokens, dim], n_tokens at least 1, finite.
        metadata: values by column name (str, int, float, bool, date, datetime or None), returned with hits
            and open to filters.
    """

    id: str
    embeddings: NDArray[Any]
    metadata: dict[str, Any] = field(default_factory=dict)


def check_document(document: Any, dim: int | None) -> Document:
    """Return the document with embeddings as float32 [n_tokens, dim] and plain metadata.

    Raises:
        InputError: naming the document and what is wrong with it.
    """
    if not isinstance(document, Document):
        raise InputError(f"{document!r:.60} is a {type(document).__name__}; expected a Document")
    id_ = check_id(document.id)
    metadata = check_metadata(id_, document.metadata)
    return Document(id_, check_embeddings(document.embeddings, dim, f"document {id_!r}"), metadata)


def check_id(id_: Any) -> str:
    """Return a document id, or raise `InputError`."""
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
    """Return `embeddings` as C-contiguous float32 [n_tokens, dim], or raise `InputError` naming `name`."""
    try:
        array = np.asarray(embeddings)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{name}: embeddings are no array ({error})") from None
    if array.dtype.kind != "f":
        raise InputError(f"{name}: embeddings of type {array.dtype}; expected floating point")
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(f"{name}: embeddings of shape {array.shape}; expected [tokens, dim] with a token at least")
    if dim is not None and array.shape[1] != dim:
        raise InputError(f"{name}: embeddings of {array.shape[1]} dimensions; the index has {dim}")
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and is refused below
        array = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"{name}: embeddings hold NaN or infinite values")
    longest = math.sqrt(np.einsum("td,td->t", array, array, dtype=np.float64).max())
    if longest > _MAX_LENGTH:
        raise InputError(f"{name}: a token of length {longest:.3g}; expected at most {_MAX_LENGTH}")
    return array
