"""A disk spool: holds validated documents until the last one is validated and the codebook is trained.

Memory use is about 24 bytes per document (two file offsets and the hash of its id).
"""

from __future__ import annotations

import datetime
import json
import os
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from raycol.errors import InputError, writing
from raycol.index.codec.training import sample_size, unit_vectors
from raycol.index.format.document import Document, check_document


class Spool:
    """Validated documents in two anonymous files: embeddings as float32, and ids with metadata as JSON.

    Args:
        folder: where the files are.
        dim: embedding dimensions; None takes those of the first document.
    """

    def __init__(self, folder: Path, dim: int | None = None) -> None:
        self.dim = dim or 0
        self._folder = folder
        self._stack = ExitStack()
        self._tokens = self._new_file()
        self._records = self._new_file()
        self._token_ends = array("q", [0])
        self._record_ends = array("q", [0])
        self._hashes = array("Q")

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *failure: object) -> None:
        with suppress(OSError):  # closing may flush, but nobody reads the files any more
            self._stack.close()

    def _new_file(self) -> IO[bytes]:
        with writing(self._folder):
            return self._stack.enter_context(tempfile.TemporaryFile(dir=self._folder, buffering=1 << 20))

    def __len__(self) -> int:
        return len(self._hashes)

    @property
    def n_tokens(self) -> int:
        """Tokens of all documents."""
        return self._token_ends[-1]

    def fill(
        self,
        documents: Iterable[Document],
        validate: Callable[[Document], None],
        pool: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None,
    ) -> None:
        """Validate each document, by `validate` too, pool its tokens, and write it to the spool.

        Raises:
            InputError: an invalid document or a duplicate id; the message names the id.
        """
        for unchecked in documents:
            document = check_document(unchecked, self.dim or None)
            self.dim = document.embeddings.shape[1]
            validate(document)
            tokens_TD = pool(document.embeddings) if pool else document.embeddings
            with writing(self._folder):  # not around the loop: errors of the caller's iterable pass unchanged
                self._add(document, tokens_TD)
        with writing(self._folder):
            self._tokens.flush()
            self._records.flush()
        self._check_distinct()

    def _add(self, document: Document, tokens_TD: NDArray[np.float32]) -> None:
        record = json.dumps([document.id, document.metadata], default=_to_json).encode()
        self._records.write(record)
        self._record_ends.append(self._record_ends[-1] + len(record))
        self._tokens.write(tokens_TD.data)
        self._token_ends.append(self.n_tokens + len(tokens_TD))
        self._hashes.append(xxhash.xxh3_64_intdigest(document.id.encode()))

    def _check_distinct(self) -> None:
        hashes_N = np.frombuffer(self._hashes, dtype=np.uint64)
        order_N = np.argsort(hashes_N, kind="stable")
        equal = np.flatnonzero(hashes_N[order_N[1:]] == hashes_N[order_N[:-1]])
        for first, second in ((order_N[entry], order_N[entry + 1]) for entry in equal):
            id_ = self._record(first)[0]
            if id_ == self._record(second)[0]:
                raise InputError(f"document id {id_!r} occurs twice; ids must be unique")

    def ids(self) -> Iterator[tuple[list[str], NDArray[np.uint64]]]:
        """Yield ids and their hashes, uint64, in batches of 8192."""
        for start in range(0, len(self), 8192):
            stop = min(start + 8192, len(self))
            ids = [self._record(position)[0] for position in range(start, stop)]
            yield ids, np.array(self._hashes[start:stop], dtype=np.uint64)

    def sample(self, seed: int, min_tokens: int) -> NDArray[np.float16]:
        """Return token directions of a seeded sample of documents, about `min_tokens`, float16 [T, dim]."""
        n = len(self)
        chosen = np.random.default_rng(seed).permutation(n)[: sample_size(n)]
        lengths = np.diff(np.frombuffer(self._token_ends, dtype=np.int64))[chosen]
        n_documents = int(np.searchsorted(np.cumsum(lengths), min_tokens)) + 1
        chosen, lengths = chosen[:n_documents], lengths[:n_documents]
        sample_TD = np.empty((int(lengths.sum()), self.dim), dtype=np.float16)
        end = 0
        for position in np.sort(chosen):
            tokens_TD = self._embeddings(int(position))
            sample_TD[end : end + len(tokens_TD)] = unit_vectors(tokens_TD)
            end += len(tokens_TD)
        return sample_TD

    def partitions(self, target_tokens: int) -> Iterator[Iterator[Document]]:
        """Yield the documents in order, in batches that end when they reach `target_tokens`."""
        ends = np.frombuffer(self._token_ends, dtype=np.int64)
        start = 0
        while start < len(self):
            stop = int(np.searchsorted(ends, ends[start] + target_tokens))
            stop = min(max(stop, start + 1), len(self))
            yield map(self._document, range(start, stop))
            start = stop

    def _document(self, position: int) -> Document:
        id_, metadata = self._record(position)
        return Document(id_, self._embeddings(position), metadata)

    def _record(self, position: int) -> tuple[str, dict[str, Any]]:
        start, end = self._record_ends[position], self._record_ends[position + 1]
        id_, metadata = json.loads(os.pread(self._records.fileno(), end - start, start))
        return id_, {name: _from_json(value) for name, value in metadata.items()}

    def _embeddings(self, position: int) -> NDArray[np.float32]:
        start, end = self._token_ends[position], self._token_ends[position + 1]
        width = 4 * self.dim
        content = os.pread(self._tokens.fileno(), (end - start) * width, start * width)
        return np.frombuffer(content, dtype=np.float32).reshape(-1, self.dim)


def _to_json(value: datetime.date) -> list[str]:
    return ["timestamp" if isinstance(value, datetime.datetime) else "date", value.isoformat()]


def _from_json(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    kind, text = value
    return (datetime.datetime if kind == "timestamp" else datetime.date).fromisoformat(text)
