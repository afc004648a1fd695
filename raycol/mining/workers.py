"""Actors of `raycol mine` and `raycol score`."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycol.distributed.partitioned_job import PartitionedJob, PartWorker
from raycol.index import Index
from raycol.indexing.workers import open_encoder
from raycol.mining.config import MineConfig, ScoreConfig
from raycol.mining.cross_encoder import Pair, open_cross_encoder, score_pairs
from raycol.mining.job import MinedPart, MiningJob
from raycol.mining.part import MINED_SCHEMA, SYSTEMS_SCHEMA, Miner
from raycol.mining.queries import from_row
from raycol.mining.scoring import Combination, score_part
from raycol.mining.sources import IndexSource, RunSource
from raycol.mining.systems import MinedSystem
from raycol.mining.texts import CorpusTexts, IndexTexts
from raycol.storage import StoredFolder

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder


class _JobWorker(PartWorker[None, MinedPart]):
    """Computes parts of a job, whose inputs are files of the job."""

    def __init__(self, job: PartitionedJob[MinedPart], on_gpu: bool, dtype: str, inputs: StoredFolder) -> None:
        super().__init__(job)
        self.on_gpu, self.dtype = on_gpu, dtype
        self.files = MiningJob(job, inputs)
        self._first_query = ""

    def describe(self, number: int, input_: None) -> str:
        """Name a part by its number and, once it has been read, its first query."""
        begins = f", which begins with the query {self._first_query[:60]!r}" if self._first_query else ""
        return f"part {number}{begins}"

    def compute(self, number: int, input_: None) -> MinedPart:
        """Compute a part and write its rows."""
        self._first_query = ""
        rows = self.files.read_part(number)
        self._first_query = str(rows[0]["query"])
        return self.files.write_part(number, *self.compute_rows(rows))

    @abstractmethod
    def compute_rows(self, rows: list[dict[str, Any]]) -> tuple[pa.Table, Counter[str]]:
        """Return the result of a part, and its counts."""


class MiningWorker(_JobWorker):
    """Mines negatives.

    Args:
        job, on_gpu, dtype, inputs: see `_JobWorker`.
        config: the settings.
        fingerprint: of the encoder; None without an index.
        cross_encoder: fingerprint of the cross-encoder, if one is used.
        corpus: name of the input file with texts; None if none are needed.
        stores_texts: whether the texts of the index come from the index.
    """

    def __init__(
        self,
        job: PartitionedJob[MinedPart],
        on_gpu: bool,
        dtype: str,
        inputs: StoredFolder,
        config: MineConfig,
        fingerprint: str | None,
        cross_encoder: str | None,
        corpus: str | None,
        stores_texts: bool,
    ) -> None:
        super().__init__(job, on_gpu, dtype, inputs)
        self.config = config
        self._fingerprint = fingerprint
        self._cross_encoder = cross_encoder
        self._corpus = corpus
        self._stores_texts = stores_texts

    def open(self) -> None:
        """Open the index, its encoder, the texts and the cross-encoder."""
        config, systems = self.config, self.config.systems
        self._miner = Miner(
            sources=[
                RunSource(mined, self._texts(mined.name), number - config.mines_index)
                if mined.system
                else self._open_index(mined)
                for number, mined in enumerate(systems)
            ],
            keep_short=config.short == "keep",
            schema=SYSTEMS_SCHEMA if config.searched else MINED_SCHEMA,
            cross_encoder=self._open_cross_encoder(),
            cross_encoder_margin=config.cross_encoder_margin,
        )

    def _open_index(self, mined: MinedSystem) -> IndexSource:
        config = self.config
        index = Index.open(config.index, config.version)
        encoder = open_encoder(str(config.model), self.on_gpu, self.dtype, str(self._fingerprint))
        texts = IndexTexts(index) if self._stores_texts else self._texts("the index")
        return IndexSource(mined, texts, index, encoder, config.batch_size)

    def _texts(self, found_by: str) -> CorpusTexts:
        return CorpusTexts(self.files.input_file(str(self._corpus)), found_by)

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

    def compute_rows(self, rows: list[dict[str, Any]]) -> tuple[pa.Table, Counter[str]]:
        """Return the part's queries with their negatives."""
        return self._miner([from_row(row) for row in rows])


class ScoringWorker(_JobWorker):
    """Scores examples.

    Args:
        job, on_gpu, dtype, inputs: see `_JobWorker`.
        config: the settings.
        fingerprints: of the teachers.
    """

    def __init__(
        self,
        job: PartitionedJob[MinedPart],
        on_gpu: bool,
        dtype: str,
        inputs: StoredFolder,
        config: ScoreConfig,
        fingerprints: Sequence[str],
    ) -> None:
        super().__init__(job, on_gpu, dtype, inputs)
        self.config = config
        self._fingerprints = fingerprints
        self._teachers: dict[int, CrossEncoder] = {}

    def _open_teacher(self, number: int) -> CrossEncoder:
        """Return a teacher; opens it at the first score that is not known."""
        if number not in self._teachers:
            config = self.config
            self._teachers[number] = open_cross_encoder(
                config.teacher[number], self.on_gpu, self.dtype, self._fingerprints[number], config.max_length
            )
        return self._teachers[number]

    def compute_rows(self, rows: list[dict[str, Any]]) -> tuple[pa.Table, Counter[str]]:
        """Return the part's examples with their scores."""
        teachers = [partial(self._open_teacher, number) for number in range(len(self.config.teacher))]
        combination = Combination(self.config.weights, self.config.normalization)
        return score_part(rows, teachers, combination, self.config.batch_size)
