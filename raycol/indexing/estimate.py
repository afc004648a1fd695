"""`raycol index plan`: what a build will take, from a sample of the corpus and rates measured on this machine."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from raycol.data import CorpusFile, Fields, Passage
from raycol.data.corpus import scan_corpus
from raycol.data.files import compression_of, open_file, size_of
from raycol.data.hub import open_dataset
from raycol.data.jsonl import read_lines
from raycol.data.parquet import n_rows
from raycol.data.position import START, Position
from raycol.errors import InputError
from raycol.index.codebook import Codebook, default_centroids, sample_tokens
from raycol.index.create import partition_tokens_for
from raycol.indexing.codebook import enough_documents
from raycol.indexing.config import PlanConfig
from raycol.indexing.encode import document_length, encode_texts
from raycol.indexing.part import check_tokens, peak_memory
from raycol.indexing.partitions import merged_tokens
from raycol.indexing.workers import open_encoder

_SAMPLED = 1024
# Places in a large file, or files of many, that the sample is taken from.
_PLACES = 16
# Content of a compressed file that is looked at.
_COMPRESSED_LOOK = 16 << 20
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
        documents: of the corpus; exact where its files say.
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
class _Sample:
    passages: list[Passage]
    documents: int


@dataclass(frozen=True)
class _Timed:
    """Tokens of some documents, and what encoding them took."""

    dim: int
    tokens_a_document: float
    embeddings: list[np.ndarray]
    per_second: float


def estimate_build(config: PlanConfig) -> Estimate:
    """Read a sample, measure, and multiply.

    Raises:
        InputError: an unusable corpus or model.
    """
    fields = config.fields()
    sample = _sample(config.files(), fields)
    timed = _encode(config, config.model, sample.passages) if config.model else _encoded(sample.passages)
    tokens = max(1, round(sample.documents * timed.tokens_a_document / config.pool_factor))
    n_centroids = config.n_centroids or default_centroids(tokens)
    quantised = _time_quantising(timed, n_centroids, config.bits)
    per_token = timed.dim * config.bits / 8 + _TOKEN_BYTES
    text = np.mean([len(passage.content.encode()) for passage in sample.passages]) / 2 if config.store_text else 0
    sampled = enough_documents(sample.documents, timed.tokens_a_document, timed.dim, n_centroids)
    encoded_tokens = (sample.documents + sampled) * timed.tokens_a_document
    seconds = encoded_tokens / timed.per_second + tokens / quantised
    sample_bytes = 2 * timed.dim * min(sample_tokens(n_centroids, timed.dim), tokens)
    parts = math.ceil(sample.documents / config.docs_per_partition)
    part_tokens = config.docs_per_partition * timed.tokens_a_document
    return Estimate(
        documents=sample.documents,
        tokens=tokens,
        n_centroids=n_centroids,
        index_bytes=round(tokens * per_token + sample.documents * (_DOCUMENT_BYTES + text)),
        parts=parts,
        partitions=min(parts, math.ceil(tokens / merged_tokens(tokens, partition_tokens_for(tokens)))),
        encoded_per_second=0 if config.model is None else round(timed.per_second, 1),
        quantised_per_second=round(quantised, 1),
        worker_hours=seconds / 3600,
        worker_bytes=round(peak_memory() + _PART_COPIES * part_tokens * per_token),
        driver_bytes=round(peak_memory() + _SAMPLE_COPIES * sample_bytes + 24 * sample.documents),
        sampled=len(sample.passages),
        on_gpu=config.on_gpu,
    )


def _sample(files: Sequence[CorpusFile], fields: Fields) -> _Sample:
    """Usable documents from all over the corpus, and how many there are in all."""
    chosen = [files[place * len(files) // min(len(files), _PLACES)] for place in range(min(len(files), _PLACES))]
    each = math.ceil(_SAMPLED / len(chosen))
    passages: list[Passage] = []
    records_a_byte = []
    for file in chosen:
        found, density = _sample_file(file, fields, each)
        passages += found
        records_a_byte.append(density)
    if not passages:
        raise InputError(f"{files[0]}: no usable document in the sample; raycol index build names what is wrong")
    tables = sum(_rows(file) for file in files if file.is_table)
    lines = sum(size_of(file.uri) for file in files if not file.is_table)
    return _Sample(passages, tables + round(lines * float(np.mean(records_a_byte))))


def _rows(file: CorpusFile) -> int:
    if file.format == "dataset":
        return len(open_dataset(file))
    if file.format == "parquet":
        return n_rows(file.uri)
    return sum(1 for _ in scan_corpus(file, Fields(make_ids="", encoded=True)))


def _sample_file(file: CorpusFile, fields: Fields, n: int) -> tuple[list[Passage], float]:
    """Some passages of a file, and records a byte (of a compressed one, a compressed byte)."""
    if file.is_table:
        return _usable(scan_corpus(file, fields, tokens=fields.encoded), n), 0.0
    size = size_of(file.uri)
    if file.format != "jsonl" or compression_of(file.uri):
        read = list(islice(scan_corpus(file, fields), n + 1))
        content = read[-1][0].offset if len(read) > n else None
        records = min(len(read), n)
        share = _compressed_share(file.uri)
        return _usable(iter(read), n), records / (size if content is None else max(1, content) * share)
    passages: list[Passage] = []
    spans, records = 0, 0
    for place in range(_PLACES):
        start = _line_start(file.uri, place * size // _PLACES)
        read = list(islice(scan_corpus(file, fields, start), n // _PLACES + 1))
        if len(read) > 1:
            spans += read[-1][0].offset - start.offset
            records += len(read) - 1
        passages += _usable(iter(read[:-1] or read), n)
    unique = list({passage.id: passage for passage in passages}.values())
    return unique, records / spans if spans else len(unique) / size


def _usable(records: Iterator[tuple[Position, object]], n: int) -> list[Passage]:
    return [item for _, item in islice(records, n) if isinstance(item, Passage)]


def _line_start(uri: str, offset: int) -> Position:
    """Where the first whole line after a byte starts."""
    if not offset:
        return START
    found = next(islice(read_lines(uri, Position(offset)), 1, 2), None)
    return Position(found[0].offset) if found else START


def _compressed_share(uri: str) -> float:
    """Compressed bytes a byte of content. Of so much content that what was read ahead matters little."""
    codec = compression_of(uri)
    if not codec:
        return 1.0
    with open_file(uri) as raw, pa.CompressedInputStream(raw, codec) as stream:
        read = len(stream.read(_COMPRESSED_LOOK))
        return float(raw.tell() / max(1, read))


def _encode(config: PlanConfig, model: str, passages: list[Passage]) -> _Timed:
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
    return _Timed(
        encoder.get_embedding_dimension(), float(np.mean(lengths)) * kept * twice, embeddings, stored / seconds
    )


def _encoded(passages: list[Passage]) -> _Timed:
    embeddings = [check_tokens(passage, None) for passage in passages]
    return _Timed(embeddings[0].shape[1], float(np.mean(list(map(len, embeddings)))), embeddings, math.inf)


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
