"""Metadata of a corpus: which columns there are, checked or inferred, and what is stored of a passage.

What is inferred depends on the corpus alone: on every document in order, also on those that turn out to repeat an id.
"""

from __future__ import annotations

from typing import Any

from raycol.data import Fields, Passage
from raycol.data.corpus import MAX_ID_BYTES
from raycol.errors import InputError
from raycol.index.format.columns import ColumnInference, Columns, ColumnType, check_columns, check_metadata

TEXT_COLUMNS: dict[str, ColumnType] = {"title": "string", "text": "string"}
# Where documents are split: the id of the document that a passage is a part of.
PARENT = "parent"
PARENT_COLUMNS: dict[str, ColumnType] = {PARENT: "string"}

# What the number of a part takes in an id, at most.
_PART_NUMBER_BYTES = 12


class MetadataCheck:
    """Looks at the metadata of one passage after the other.

    Args:
        fields: says which metadata there is, and of what types if that was said.
        known: the columns that an index has already, to which passages must keep; None where there is no index yet.
        split: whether documents will be split, and their ids become longer.
    """

    def __init__(self, fields: Fields, known: Columns | None = None, *, split: bool = False) -> None:
        self._wanted = set(fields.metadata)
        self._known = known
        self._inference = ColumnInference()
        self._longest_id = MAX_ID_BYTES - _PART_NUMBER_BYTES * split
        declared = {name: kind for name, kind in fields.metadata.items() if kind}
        self._inference.columns |= declared  # type: ignore[arg-type]

    def __call__(self, passage: Passage) -> None:
        """Check one. Raises `InputError` where its metadata does not fit."""
        if len(passage.id.encode()) > self._longest_id:
            raise InputError(
                f"document {passage.id[:40]!r}...: an id of over {self._longest_id} bytes cannot be split"
            )
        if not passage.metadata:
            return
        metadata = check_metadata(passage.id, passage.metadata)
        if self._known is None:
            self._inference.add(passage.id, metadata)
        else:
            check_columns(passage.id, metadata, self._known)

    def finish(self, where: object) -> Columns:
        """The columns. Raises `InputError` where one that was asked for never came."""
        if self._known is not None:
            return self._known
        if missing := sorted(self._wanted - set(self._inference.columns)):
            raise InputError(f"{where}: no document has a value for the metadata {missing[0]!r}; leave it out")
        return {name: self._inference.columns[name] for name in sorted(self._inference.columns)}


def stored(passage: Passage, columns: Columns) -> dict[str, Any]:
    """What is kept of a passage beside its embeddings, by the columns of the index."""
    values: dict[str, Any] = {"title": passage.title, "text": passage.text, **passage.metadata}
    return {name: value for name, value in values.items() if name in columns}
