"""Metadata of a corpus: check or infer its columns, and select what is stored of a passage.

Inferred columns depend only on the corpus: on every document in order, including those skipped for a duplicate id.
"""

from __future__ import annotations

from typing import Any

from raycol.core.validation import MAX_ID_BYTES
from raycol.data import Fields, Passage
from raycol.errors import InputError
from raycol.index.format.columns import ColumnInference, Columns, ColumnType, check_columns, check_metadata

TEXT_COLUMNS: dict[str, ColumnType] = {"title": "string", "text": "string"}
# Column of a split corpus: the id of the document that a passage is part of.
PARENT = "parent"
PARENT_COLUMNS: dict[str, ColumnType] = {PARENT: "string"}

# Maximum bytes that a passage's number adds to its document's id.
PASSAGE_NUMBER_BYTES = 12


class MetadataCheck:
    """Checks the metadata of passages one by one, and infers their columns.

    Args:
        fields: names the metadata fields, with their declared types.
        known: columns of an existing index, which passages must match; None for a new index.
        split: whether documents will be split, which lengthens their ids.
        earlier: columns inferred from documents before the first.
    """

    def __init__(
        self, fields: Fields, known: Columns | None = None, *, split: bool = False, earlier: Columns | None = None
    ) -> None:
        self._requested = set(fields.metadata)
        self._known = known
        self._inference = ColumnInference()
        self._max_id_bytes = MAX_ID_BYTES - PASSAGE_NUMBER_BYTES * split
        declared = {name: kind for name, kind in fields.metadata.items() if kind}
        self._inference.columns |= declared  # type: ignore[arg-type]
        self._inference.columns |= earlier or {}

    @property
    def columns(self) -> dict[str, ColumnType]:
        """The columns of the documents so far."""
        return self._inference.columns

    def __call__(self, passage: Passage) -> None:
        """Check a passage. Raises `InputError` if its id is too long or its metadata does not match the columns."""
        if len(passage.id.encode()) > self._max_id_bytes:
            raise InputError(
                f"document {passage.id[:40]!r}...: documents that are split need ids of at most {self._max_id_bytes} "
                "bytes; shorten the id"
            )
        if not passage.metadata:
            return
        metadata = check_metadata(passage.id, passage.metadata)
        if self._known is None:
            self._inference.add(passage.id, metadata)
        else:
            check_columns(passage.id, metadata, self._known)

    def finish(self, where: object) -> Columns:
        """Return the columns. Raises `InputError` if no document has a requested field."""
        if self._known is not None:
            return self._known
        if missing := sorted(self._requested - set(self._inference.columns)):
            raise InputError(f"{where}: no document has a value for the metadata {missing[0]!r}; leave it out")
        return {name: self._inference.columns[name] for name in sorted(self._inference.columns)}


def stored_values(passage: Passage, columns: Columns) -> dict[str, Any]:
    """Return the values of a passage that the index stores, by column."""
    values: dict[str, Any] = {"title": passage.title, "text": passage.text, **passage.metadata}
    return {name: value for name, value in values.items() if name in columns}
