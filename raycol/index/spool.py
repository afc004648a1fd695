"""Where documents wait while the codebook is trained: on disk, so that memory does not grow with the corpus."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raycol.errors import InputError
from raycol.index.codebook import sample_size
from raycol.index.document import Document, check_document


class Spool:
    """Checked documents: ids, lengths and metadata in memory, embeddings in a file without a name."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.metadata: list[dict[str, Any]] = []
        self.offsets: list[int] = [0]
        self.dim = 0
        self._tokens_TD: NDArray[np.float32]

    @property
    def n_tokens(self) -> int:
        """Tokens of all documents."""
        return self.offsets[-1]

    @classmethod
    def fill(cls, workspace: Path, documents: Iterable[Document]) -> Spool:
        """Check every document and write its embeddings to a file in `workspace`.

        Raises:
            InputError: an unusable document, by its id, or none at all.
        """
        spool = cls()
        seen: set[str] = set()
        with tempfile.TemporaryFile(dir=workspace) as file:
            for document in documents:
                tokens_TD = check_document(document, spool.dim or None)
                if document.id in seen:
                    raise InputError(f"document id {document.id!r} comes twice; ids must be distinct")
                seen.add(document.id)
                spool.dim = tokens_TD.shape[1]
                spool.ids.append(document.id)
                spool.metadata.append(document.metadata)
                spool.offsets.append(spool.n_tokens + len(tokens_TD))
                file.write(tokens_TD.tobytes())
            if not seen:
                raise InputError("no documents; expected at least one")
            file.flush()
            # The mapping outlives the file, which has no name: nothing is left behind, however this ends.
            spool._tokens_TD = np.memmap(file, np.float32, "r", shape=(spool.n_tokens, spool.dim))
        return spool

    def sample(self, seed: int) -> NDArray[np.float32]:
        """The tokens of a seeded sample of documents."""
        chosen = np.random.default_rng(seed).choice(len(self.ids), sample_size(len(self.ids)), replace=False)
        return np.concatenate([self._embeddings(position) for position in np.sort(chosen)])

    def read(self, start: int, stop: int) -> Iterator[Document]:
        """The documents from position `start` up to `stop`."""
        for position in range(start, min(stop, len(self.ids))):
            yield Document(self.ids[position], self._embeddings(position), self.metadata[position])

    def _embeddings(self, position: int) -> NDArray[np.float32]:
        return self._tokens_TD[self.offsets[position] : self.offsets[position + 1]]
