"""`raycol index plan`: estimate a build's cost from a sample of the corpus and rates measured on this machine."""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from raycol.core.memory import peak_memory
from raycol.core.shown import Shown
from raycol.data import BadRecord, Passage
from raycol.data.corpus import OnError, refuse, scan_corpus
from raycol.errors import InputError
from raycol.index.codec.codebook import Codebook, check_codec
from raycol.index.codec.training import default_centroids
from raycol.index.format.columns import metadata_table
from raycol.index.format.lists import STORED_TOKENS
from raycol.index.format.partition_writer import save_partition
from raycol.index.write.compact import merged_tokens
from raycol.index.write.create import partition_tokens_for
from raycol.indexing.codebook import default_sample_size
from raycol.indexing.config import PlanConfig
from raycol.indexing.duplicates import GROUP_IDS
from raycol.indexing.encode import document_length, encode_texts, tokenise_texts
from raycol.indexing.part import check_tokens
from raycol.indexing.plan import ID_BYTES
from raycol.indexing.sampling import Sample, sample_corpus
from raycol.indexing.workers import open_encoder
from raycol.storage import open_store

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

# Approximate number of tokens to measure rates on.
_TIMED_TOKENS = 16384
# Quantisation is timed with at most this many centroids; more hardly change the rate.
_TIMED_CENTROIDS = 16384
# Bytes of a token beside its residual (code, gain, scale; lists if there are any), and of a document beside its text
# and id (offsets, hash, position).
_TOKEN_BYTES = 2 + 1 + 2
_LIST_BYTES = 1
_DOCUMENT_BYTES = 8 + 4 + 4 + 4
# Memory for holding, sorting and writing a part, in multiples of its size.
_PART_COPIES = 3
# Memory for training on the sample, in multiples of its size.
_SAMPLE_COPIES = 3


class Estimate(Shown, BaseModel):
    """Estimated cost of a build. The rates are measured on this machine.

    Args:
        documents: usable documents; exact if the files state their number of records and all are usable.
        tokens: tokens stored, after pooling.
        n_centroids: centroids of the codebook.
        index_bytes: size of the finished index.
        parts: parts of the corpus, a worker's task each.
        partitions: partitions of the finished index.
        encoded_per_second: tokens per second that one worker encodes; 0 if documents come encoded.
        quantised_per_second: tokens per second that one worker quantises.
        read_per_second: tokens per CPU second of reading and tokenising; 0 if documents come encoded.
        written_per_second: tokens per CPU second of writing partitions.
        cpus_beside: CPUs that read, tokenise and write as fast as one worker encodes (`cpu_workers`).
        worker_hours: hours of all workers together, including the codebook's sample.
        worker_bytes: memory of each worker.
        driver_bytes: memory of the process that starts the build.
        sampled: documents in the sample behind these figures.
        on_gpu: whether the workers use GPUs.
    """

    model_config = ConfigDict(frozen=True)
    _main: ClassVar = ("documents", "tokens", "index_bytes", "parts", "worker_hours", "worker_bytes")

    documents: int
    tokens: int
    n_centroids: int
    index_bytes: int
    parts: int
    partitions: int
    encoded_per_second: float
    quantised_per_second: float
    read_per_second: float
    written_per_second: float
    cpus_beside: float
    worker_hours: float
    worker_bytes: int
    driver_bytes: int
    sampled: int
    on_gpu: bool


@dataclass(frozen=True)
class _EncodedSample:
    """Usable documents of a sample: their number and embeddings, and the rates of the encoder and of what it needs.

    Without an encoder, both rates are infinite.
    """

    documents: int
    dim: int
    mean_tokens: float
    embeddings: list[NDArray[np.float32]]
    tokens_per_second: float
    read_per_second: float


def estimate_build(config: PlanConfig) -> Estimate:
    """Estimate a build from a sample of its corpus. `config.on_error` applies to the sample's records.

    Raises:
        InputError: an unusable corpus or model.
    """
    sample = sample_corpus(config.files(), config.fields(), config.on_error)
    passages = [passage for _, passage in sample.passages]
    encoded = _encode_sample(config, config.model, passages) if config.model else _read_sample(sample, config.on_error)
    check_codec(encoded.dim, config.bits)
    documents = max(1, round(sample.records * encoded.documents / sample.n_read))
    tokens = max(1, round(documents * encoded.mean_tokens / config.pool_factor))
    training_documents = _training_documents(config, documents, encoded)
    training_tokens = max(1, round(training_documents * encoded.mean_tokens / config.pool_factor))
    n_centroids = config.n_centroids or default_centroids(tokens, training_tokens)
    quantised_per_second, written_per_second = _time_quantising(encoded, n_centroids, config.bits)
    worker_rate = 1 / (1 / encoded.tokens_per_second + 1 / quantised_per_second)
    partition_tokens = merged_tokens(tokens, partition_tokens_for(tokens))
    list_bytes = _LIST_BYTES if partition_tokens >= STORED_TOKENS else 0
    token_bytes = encoded.dim * config.bits / 8 + _TOKEN_BYTES + list_bytes
    # zstd compresses stored text to about half.
    text_bytes = np.mean([len(passage.content.encode()) for passage in passages]) / 2 if config.store_text else 0
    id_bytes = np.mean([len(passage.id.encode()) for passage in passages])
    encoded_tokens = (documents + training_documents) * encoded.mean_tokens
    seconds = encoded_tokens / encoded.tokens_per_second + tokens / quantised_per_second
    training_bytes = 2 * encoded.dim * training_tokens
    parts = math.ceil(documents / config.docs_per_partition)
    part_tokens = config.docs_per_partition * encoded.mean_tokens
    return Estimate(
        documents=documents,
        tokens=tokens,
        n_centroids=n_centroids,
        index_bytes=round(tokens * token_bytes + documents * (_DOCUMENT_BYTES + id_bytes + text_bytes)),
        parts=parts,
        partitions=min(parts, math.ceil(tokens / partition_tokens)),
        encoded_per_second=0 if config.model is None else round(encoded.tokens_per_second, 1),
        quantised_per_second=round(quantised_per_second, 1),
        read_per_second=0 if config.model is None else round(encoded.read_per_second, 1),
        written_per_second=round(written_per_second, 1),
        cpus_beside=0
        if config.model is None
        else round(worker_rate * (1 / encoded.read_per_second + 1 / written_per_second), 2),
        worker_hours=seconds / 3600,
        worker_bytes=round(peak_memory() + _PART_COPIES * part_tokens * token_bytes),
        driver_bytes=round(peak_memory() + _SAMPLE_COPIES * training_bytes + ID_BYTES * min(documents, GROUP_IDS)),
        sampled=encoded.documents,
        on_gpu=config.on_gpu,
    )


def _training_documents(config: PlanConfig, documents: int, encoded: _EncodedSample) -> int:
    """Number of documents that the codebook will be trained on."""
    default = default_sample_size(documents, encoded.mean_tokens, encoded.dim, config.n_centroids)
    return min(config.sample_documents or default, documents)


def _encode_sample(config: PlanConfig, model: str, passages: list[Passage]) -> _EncodedSample:
    """Tokenise the sample, and encode about `_TIMED_TOKENS` of it."""
    encoder = open_encoder(model, config.on_gpu, config.dtype, embedding_size=config.embedding_size)
    max_length = math.inf if config.split_tokens else document_length(encoder)
    texts = [passage.content for passage in passages]
    tokenised = encoder.tokenizer(texts, truncation=False, verbose=False)["input_ids"]
    lengths = [min(len(ids), max_length) for ids in tokenised]
    n = max(1, int(np.searchsorted(np.cumsum(lengths), _TIMED_TOKENS)))
    list(encode_texts(encoder, texts[:8], config.batch))  # warm up
    started = time.perf_counter()
    batches = list(encode_texts(encoder, texts[:n], config.batch))
    seconds = time.perf_counter() - started
    embeddings = [tokens_TD for batch in batches for tokens_TD in batch.embeddings]
    stored = sum(map(len, embeddings))
    # The skiplist drops some tokens; overlapping passages store some twice.
    stored_share = stored / sum(min(length, document_length(encoder)) for length in lengths[:n])
    repetition = config.split_tokens / (config.split_tokens - config.overlap) if config.split_tokens else 1.0
    mean_tokens = float(np.mean(lengths)) * stored_share * repetition
    read_s = _time_reading(config, encoder, n) / n
    return _EncodedSample(
        len(passages),
        encoder.get_embedding_dimension(),
        mean_tokens,
        embeddings,
        stored / seconds,
        mean_tokens / max(read_s, 1e-9),
    )


def _time_reading(config: PlanConfig, encoder: MultiVectorEncoder, n: int) -> float:
    """CPU seconds of reading and tokenising about `n` documents, scaled to `n`."""
    started = time.process_time()
    items = (item for file in config.files() for _, item in scan_corpus(file, config.fields()))
    texts = [item.content for item in islice(items, n) if isinstance(item, Passage)]
    list(tokenise_texts(encoder, texts))
    return (time.process_time() - started) * n / max(1, len(texts))


def _read_sample(sample: Sample, on_error: OnError) -> _EncodedSample:
    """Read the embeddings of documents that come encoded. Raises `InputError` as the build would."""
    embeddings: list[NDArray[np.float32]] = []
    problems: list[BadRecord] = []
    for where, passage in sample.passages:
        try:
            embeddings.append(check_tokens(passage, embeddings[0].shape[1] if embeddings else None))
        except InputError as error:
            problems.append(BadRecord(where, str(error)))
    if not embeddings:
        raise InputError(f"{problems[0]}; to encode texts, name a model with `model=`")
    if problems:
        refuse(problems[0], on_error)
    mean = float(np.mean(list(map(len, embeddings))))
    return _EncodedSample(len(embeddings), embeddings[0].shape[1], mean, embeddings, math.inf, math.inf)


def _time_quantising(encoded: _EncodedSample, n_centroids: int, bits: int) -> tuple[float, float]:
    """Tokens per second that one worker quantises, with random centroids, and tokens per CPU second of writing."""
    rng = np.random.default_rng(0)
    centroids_KD = rng.standard_normal((min(n_centroids, _TIMED_CENTROIDS), encoded.dim), dtype=np.float32)
    centroids_KD /= np.linalg.norm(centroids_KD, axis=1, keepdims=True)
    ones_D = np.ones(encoded.dim, dtype=np.float32)
    codebook = Codebook(centroids_KD, -ones_D, ones_D / np.float32(8), bits)
    tokens_TD = np.concatenate(encoded.embeddings).astype(np.float32)[:_TIMED_TOKENS]
    codebook.quantise(tokens_TD[:256])
    started = time.perf_counter()
    codes, _ = codebook.quantise(tokens_TD)
    seconds = time.perf_counter() - started
    n_documents = max(1, round(len(tokens_TD) / encoded.mean_tokens))
    lengths_N = np.diff(np.linspace(0, len(tokens_TD), n_documents + 1).astype(np.int64)).astype(np.int64)
    ids = [str(number) for number in range(n_documents)]
    with tempfile.TemporaryDirectory() as folder:
        started_cpu = time.process_time()
        save_partition(
            open_store(folder),
            ids,
            metadata_table([{}] * n_documents, {}),
            lengths_N,
            codes,
            0.0,
            len(centroids_KD),
            0,
        )
        cpu_s = time.process_time() - started_cpu
    return len(tokens_TD) / seconds, len(tokens_TD) / max(cpu_s, 1e-9)
