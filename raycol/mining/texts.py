"""Look up the texts of an index's documents: in its metadata, or in the corpus it was built from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import xxhash

from raycol.data import BadRecord, read_corpus
from raycol.data.corpus import OnError
from raycol.data.text_store import Text, TextStore, TextWriter
from raycol.errors import InputError
from raycol.index import Index


class Texts(Protocol):
    """Looks up texts by document id."""

    def __call__(self, ids: Sequence[str]) -> dict[str, Text]:
        """Return the texts of documents by id. Raises `InputError` for a missing document."""


class IndexTexts:
    """Texts from the metadata of an index."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def __call__(self, ids: Sequence[str]) -> dict[str, Text]:
        """Return the texts of documents by id; a document without text gets an empty one."""
        rows = zip(ids, self._index.metadata(ids), strict=True)
        return {id_: Text(row.get("title") or "", row.get("text") or "") for id_, row in rows}


class CorpusTexts:
    """Texts from a file of `write_texts`; `found_by` names what returns the ids, for errors."""

    def __init__(self, path: Path, found_by: str = "the index") -> None:
        self._store = TextStore.open(path)
        self._found_by = found_by

    def __call__(self, ids: Sequence[str]) -> dict[str, Text]:
        """Return the texts of documents by id. Raises `InputError` if the corpus lacks a document."""
        texts = self._store.find(ids)
        if missing := [id_ for id_ in ids if id_ not in texts]:
            raise InputError(
                f"{self._store.name}: has no document {missing[0]!r}, which {self._found_by} has; pass the corpus "
                f"that {self._found_by} was built from with `corpus=`"
            )
        return texts


def write_texts(path: Path, corpus: str, on_error: OnError, problems: list[BadRecord]) -> str:
    """Write the texts of a corpus to a file for `CorpusTexts`, on this machine or another; return their hash.

    Args:
        path: of the new file.
        corpus: as in `raycol.data.read_corpus`, which says what it raises.
        on_error: what to do with bad records.
        problems: receives the skipped records, unless it has them: reading a BEIR folder's examples reports them too.
    """
    skipped: list[BadRecord] = []
    digest = xxhash.xxh3_128()
    writer = TextWriter(corpus, path)
    for passage in read_corpus(corpus, on_error, skipped):
        digest.update(repr((passage.id, passage.title, passage.text)).encode())
        writer.add(passage.id, Text(passage.title, passage.text))
    writer.finish()
    problems += [problem for problem in skipped if problem not in problems]
    return digest.hexdigest()
