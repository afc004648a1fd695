"""`raycol index plan`: what a build will take, from a sample of the corpus and rates measured on this machine."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from raycol.core.memory import peak_memory
from raycol.data import BadRecord, Passage
from raycol.data.corpus import OnError, refuse
from raycol.errors import InputError
from raycol.index.codec.codebook import Codebook, check_codec, default_centroids
from raycol.index.write.create import partition_tokens_for
from raycol.indexing.codebook import enough_documents
from raycol.indexing.config import PlanConfig
from raycol.indexing.encode import document_length, encode_texts
from raycol.indexing.part import check_tokens
from raycol.indexing.partitions import merged_tokens
from raycol.indexing.plan import ID_BYTES
from raycol.indexing.sampling import Sample, sample_corpus
from raycol.indexing.workers import open_encoder

# Tokens that rates are measured on, about.
_TIMED_TOKENS = 16384
# The rate of quantising is measured with so many centroids at most; more cost little more.
_TIMED_CENTROIDS = 16384
# What lists, codes, gains and scales add to a token's residual, and a document's ids and offsets to its text.
_TOKEN_BYTES = 4 + 2 + 1 + 2
_DOCUMENT_BYTES = 40
# What holding, sorting and writing a part takes, times its bytes.
_PART_COPIES = 3
# What training on the sample takes, times its bytes.
_SAMPLE_COPIES = 3


class Estimate(BaseModel):
    """What a build will take. Figures are estimates but for the rates, which were measured here.

    Args:
        documents: of the corpus that are usable; exact where its files say how many there are, and none is unusable.
        tokens: that will be stored, pooled if so asked.
        n_centroids: of the codebook.
        index_bytes: of the finished index.
        parts: tasks of the workers.
        partitions: of the finished index.
        encoded_per_second: tokens that one worker encodes; 0 where documents come encoded.
        quantised_per_second: tokens that one worker quantises.
        worker_hours: of all workers together, the codebook's sample included.
        worker_bytes: memory of each worker.
        driver_bytes: memory of the process that starts the build.
        sampled: documents that these figures are from.
        on_gpu: whether workers are GPUs here.
    """

    model_config = ConfigDict(frozen=True)

    documents: int
    tokens: int
    n_centroids: int
    index_bytes: int
    parts: int
    partitions: int
    encoded_per_second: float
    quantised_per_second: float
    worker_hours: float
    worker_bytes: int
    driver_bytes: int
    sampled: int
    on_gpu: bool


@dataclass(frozen=True)
class _Timed:
    """Tokens of the usable documents of a sample, and what encoding them took."""

    documents: int
    dim: int
    tokens_a_document: float
    embeddings: list[NDArray[np.float32]]
    per_second: float


def estimate_build(config: PlanConfig) -> Estimate:
    """Read a sample, measure, and multiply. What `config.on_error` says of unusable records holds for the sample.

    Raises:
        InputError: an unusable corpus or model.
    """
    sample = sample_corpus(config.files(), config.fields(), config.on_error)
    passages = [passage for _, passage in sample.passages]
    timed = _time_encoding(config, config.model, passages) if config.model else _embeddings_of(sample, config.on_error)
    check_codec(timed.dim, config.bits)
    documents = max(1, round(sample.records * timed.documents / sample.looked_at))
    tokens = max(1, round(documents * timed.tokens_a_document / config.pool_factor))
    sampled = _sampled(config, documents, timed)
    sampled_tokens = max(1, round(sampled * timed.tokens_a_document / config.pool_factor))
    n_centroids = config.n_centroids or default_centroids(tokens, sampled_tokens)
    quantised = _time_quantising(timed, n_centroids, config.bits)
    per_token = timed.dim * config.bits / 8 + _TOKEN_BYTES
    text = np.mean([len(passage.content.encode()) for passage in passages]) / 2 if config.store_text else 0
    encoded_tokens = (documents + sampled) * timed.tokens_a_document
    seconds = encoded_tokens / timed.per_second + tokens / quantised
    sample_bytes = 2 * timed.dim * sampled_tokens
    parts = math.ceil(documents / config.docs_per_partition)
    part_tokens = config.docs_per_partition * timed.tokens_a_document
    return Estimate(
        documents=documents,
        tokens=tokens,
        n_centroids=n_centroids,
        index_bytes=round(tokens * per_token + documents * (_DOCUMENT_BYTES + text)),
        parts=parts,
        partitions=min(parts, math.ceil(tokens / merged_tokens(tokens, partition_tokens_for(tokens)))),
        encoded_per_second=0 if config.model is None else round(timed.per_second, 1),
        quantised_per_second=round(quantised, 1),
        worker_hours=seconds / 3600,
        worker_bytes=round(peak_memory() + _PART_COPIES * part_tokens * per_token),
        driver_bytes=round(peak_memory() + _SAMPLE_COPIES * sample_bytes + ID_BYTES * documents),
        sampled=timed.documents,
        on_gpu=config.on_gpu,
    )


def _sampled(config: PlanConfig, documents: int, timed: _Timed) -> int:
    """How many documents the codebook will be trained on."""
    enough = enough_documents(documents, timed.tokens_a_document, timed.dim, config.n_centroids)
    return min(config.sample_documents or enough, documents)


def _time_encoding(config: PlanConfig, model: str, passages: list[Passage]) -> _Timed:
    """Tokenise the sample, and encode as much of it as takes a few seconds."""
    encoder = open_encoder(model, config.on_gpu, config.dtype)
    longest = math.inf if config.split_tokens else document_length(encoder)
    texts = [passage.content for passage in passages]
    tokenised = encoder.tokenizer(texts, truncation=False, verbose=False)["input_ids"]
    lengths = [min(len(ids), longest) for ids in tokenised]
    n = max(1, int(np.searchsorted(np.cumsum(lengths), _TIMED_TOKENS)))
    list(encode_texts(encoder, texts[:8], config.batch))  # the first batch is slower than others
    started = time.perf_counter()
    batches = list(encode_texts(encoder, texts[:n], config.batch))
    seconds = time.perf_counter() - started
    embeddings = [tokens_TD for batch in batches for tokens_TD in batch.embeddings]
    stored = sum(map(len, embeddings))
    # Of what is tokenised, some is not stored (the skiplist); of what is split, some is stored twice.
    kept = stored / sum(min(length, document_length(encoder)) for length in lengths[:n])
    twice = config.split_tokens / (config.split_tokens - config.overlap) if config.split_tokens else 1.0
    tokens_a_document = float(np.mean(lengths)) * kept * twice
    return _Timed(len(passages), encoder.get_embedding_dimension(), tokens_a_document, embeddings, stored / seconds)


def _embeddings_of(sample: Sample, on_error: OnError) -> _Timed:
    """The embeddings that documents came with. Raises `InputError` as the build would."""
    embeddings: list[NDArray[np.float32]] = []
    problems: list[BadRecord] = []
    for where, passage in sample.passages:
        try:
            embeddings.append(check_tokens(passage, embeddings[0].shape[1] if embeddings else None))
        except InputError as error:
            problems.append(BadRecord(where, str(error)))
    if not embeddings:
        raise InputError(f"{problems[0]}; to encode texts, name a model with --model")
    if problems:
        refuse(problems[0], on_error)
    mean = float(np.mean(list(map(len, embeddings))))
    return _Timed(len(embeddings), embeddings[0].shape[1], mean, embeddings, math.inf)


def _time_quantising(timed: _Timed, n_centroids: int, bits: int) -> float:
    """Tokens a second that one worker quantises; which centroids there are matters little to that."""
    rng = np.random.default_rng(0)
    centroids_KD = rng.standard_normal((min(n_centroids, _TIMED_CENTROIDS), timed.dim), dtype=np.float32)
    centroids_KD /= np.linalg.norm(centroids_KD, axis=1, keepdims=True)
    ones_D = np.ones(timed.dim, dtype=np.float32)
    codebook = Codebook(centroids_KD, -ones_D, ones_D / np.float32(8), bits)
    tokens_TD = np.concatenate(timed.embeddings).astype(np.float32)[:_TIMED_TOKENS]
    codebook.quantise(tokens_TD[:256])
    started = time.perf_counter()
    codebook.quantise(tokens_TD)
    return len(tokens_TD) / (time.perf_counter() - started)
