"""The actors of `raycol mine` and `raycol score`. Each row is a part of the job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycol.index import Index
from raycol.indexing.part import release_memory
from raycol.indexing.workers import Worker, open_encoder
from raycol.mining.candidates import NegativeRules
from raycol.mining.config import MineConfig, ScoreConfig
from raycol.mining.cross_encoder import Pair, open_cross_encoder, score_pairs
from raycol.mining.job import MiningJob
from raycol.mining.part import Miner
from raycol.mining.queries import from_row
from raycol.mining.scoring import score_part
from raycol.mining.texts import CorpusTexts, IndexTexts
from raycol.mining.workspace import open_place

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder


class _JobWorker(Worker):
    """Works on parts of a job, and saves each before it tells of it."""

    empty_result = {"number": -1}  # noqa: RUF012

    def __init__(self, on_gpu: bool, dtype: str, folder: str) -> None:
        super().__init__(on_gpu, dtype)
        self.job = MiningJob(open_place(folder))
        self._first = ""

    def describe(self, row: dict[str, Any]) -> str:
        """A part by its number and, once it was read, the first query in it."""
        begins = f", which begins with the query {self._first[:60]!r}" if self._first else ""
        return f"part {int(row['number'])}{begins}"

    def work(self, row: dict[str, Any]) -> dict[str, Any]:
        """The number of the part that was saved."""
        number = int(row["number"])
        self._first = ""
        rows = self.job.read_work(number)
        self._first = str(rows[0]["query"])
        self.job.save_part(number, *self.make(rows))
        release_memory()
        return {"number": number}

    def make(self, rows: list[dict[str, Any]]) -> tuple[pa.Table, Counter[str]]:
        """What becomes of a part."""
        raise NotImplementedError


class MiningWorker(_JobWorker):
    """Mines negatives.

    Args:
        config: a `MineConfig`.
        fingerprint: of the encoder that it names.
        cross_encoder: the fingerprint of the cross-encoder, if there is one.
        corpus: the name of the file of texts in the job's input, where they are not the index's.
    """

    def __init__(
        self,
        on_gpu: bool,
        dtype: str,
        folder: str,
        config: str,
        fingerprint: str,
        cross_encoder: str | None,
        corpus: str | None,
    ) -> None:
        super().__init__(on_gpu, dtype, folder)
        self.config = MineConfig.model_validate_json(config)
        self._fingerprint = fingerprint
        self._cross_encoder = cross_encoder
        self._corpus = corpus

    def open(self) -> None:
        """The index, its encoder, texts, and the cross-encoder."""
        config = self.config
        index = Index.open(config.index, config.version)
        self._miner = Miner(
            index=index,
            encoder=open_encoder(str(config.model), self.on_gpu, self.dtype, self._fingerprint),
            texts=CorpusTexts(self.job.place.work(self._corpus)) if self._corpus else IndexTexts(index),
            rules=rules_of(config),
            from_rank=config.from_rank,
            to_rank=config.to_rank,
            keep_short=config.short == "keep",
            batch_size=config.batch_size,
            cross_encoder=self._open_cross_encoder(),
            cross_encoder_margin=config.cross_encoder_margin,
        )

    def _open_cross_encoder(self) -> Any:
        config = self.config
        if not config.cross_encoder or not self._cross_encoder:
            return None
        model = open_cross_encoder(
            config.cross_encoder, self.on_gpu, self.dtype, self._cross_encoder, config.max_length
        )

        def score(pairs: Sequence[Pair]) -> NDArray[np.float32]:
            return score_pairs(model, pairs, config.batch_size)

        return score

    def make(self, rows: list[dict[str, Any]]) -> tuple[pa.Table, Counter[str]]:
        """The part's queries with their negatives."""
        return self._miner([from_row(row) for row in rows])


def rules_of(config: MineConfig) -> NegativeRules:
    """What is asked of negatives."""
    return NegativeRules(
        negatives=config.negatives,
        margin=config.margin,
        relative_margin=config.relative_margin,
        max_score=config.max_score,
        min_score=config.min_score,
        sampling=config.sampling,
        seed=config.seed,
    )


class ScoringWorker(_JobWorker):
    """Scores examples.

    Args:
        config: a `ScoreConfig`.
        fingerprint: of the teacher.
    """

    def __init__(self, on_gpu: bool, dtype: str, folder: str, config: str, fingerprint: str) -> None:
        super().__init__(on_gpu, dtype, folder)
        self.config = ScoreConfig.model_validate_json(config)
        self._fingerprint = fingerprint

    def open(self) -> None:
        """The teacher."""
        config = self.config
        self._teacher: CrossEncoder = open_cross_encoder(
            config.teacher, self.on_gpu, self.dtype, self._fingerprint, config.max_length
        )

    def make(self, rows: list[dict[str, Any]]) -> tuple[pa.Table, Counter[str]]:
        """The part's examples with their scores."""
        return score_part(rows, self._teacher, self.config.batch_size)
