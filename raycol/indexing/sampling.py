"""Sample a corpus and estimate its number of records without reading all of it.

Tables and uncompressed line formats are read at several positions. CSV and quoted TSV (quotes hide where a record
starts), JSON arrays and compressed files are read from their beginning only, so the sample is biased if they are
sorted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from raycol.data import BadRecord, CorpusFile, Fields, Passage
from raycol.data.corpus import OnError, empty_corpus_error, refuse, scan_corpus
from raycol.data.files import compression_of, decompressed, open_file
from raycol.data.readers.reader import START, Position

_SAMPLE_SIZE = 1024
# Positions in a large file, or files of a large corpus, that are sampled.
_N_POSITIONS = 16
# Records read at each position to estimate their length.
_PROBE_RECORDS = 8
# Bytes of content decompressed to estimate the compression ratio.
_PROBE_BYTES = 16 << 20

Records = list[tuple[str, Passage | BadRecord]]


@dataclass(frozen=True)
class Sample:
    """Sampled documents of a corpus.

    Args:
        passages: usable documents, each with its file and line (row); at least one.
        n_read: records read for the sample.
        records: estimated records of the corpus; exact if its files are tables.
    """

    passages: list[tuple[str, Passage]]
    n_read: int
    records: int


def sample_corpus(files: Sequence[CorpusFile], fields: Fields, on_error: OnError) -> Sample:
    """Sample about `_SAMPLE_SIZE` records.

    Raises:
        InputError: an unreadable file, an unusable record (unless skipped), or no usable record.
    """
    sizes = {file: file.reader.count(file) for file in files}
    nonempty = [file for file in files if sizes[file]]
    sampled = nonempty
    if len(nonempty) > _N_POSITIONS:
        sampled = [nonempty[index * len(nonempty) // _N_POSITIONS] for index in range(_N_POSITIONS)]
    records: Records = []
    records_per_byte = []
    for file in sampled:
        n = math.ceil(_SAMPLE_SIZE / len(sampled))
        if file.is_table:
            records += _sample_table(file, fields, sizes[file], n)
        else:
            lines, density = _sample_lines(file, fields, sizes[file], n)
            records += lines
            records_per_byte.append(density)
    problems = [BadRecord(where, item.what) for where, item in records if isinstance(item, BadRecord)]
    if problems:
        refuse(problems[0], on_error)
    passages = [(where, item) for where, item in records if isinstance(item, Passage)]
    if not passages:
        raise empty_corpus_error(files[0], problems[0] if problems else None)
    rows = sum(size for file, size in sizes.items() if file.is_table)
    n_bytes = sum(size for file, size in sizes.items() if not file.is_table)
    density = float(np.mean(records_per_byte)) if records_per_byte else 0.0
    return Sample(passages, len(records), rows + round(n_bytes * density))


def _sample_table(file: CorpusFile, fields: Fields, size: int, n: int) -> Iterator[tuple[str, Passage | BadRecord]]:
    """Yield about `n` rows, evenly spread over a table of `size` rows."""
    each = math.ceil(n / _N_POSITIONS)
    starts = file.reader.sample(file, [max(0, middle - each // 2) for middle in _middles(size)] if size > n else [0])
    for start in starts:
        rows = scan_corpus(file, fields, start, start.offset, tokens=fields.encoded)
        for position, item in islice(rows, math.ceil(n / len(starts))):
            yield file.where(position.number), item


def _sample_lines(file: CorpusFile, fields: Fields, size: int, n: int) -> tuple[Records, float]:
    """Return about `n` records of a file of lines, and its records per (compressed) byte."""
    starts = file.reader.sample(file, _middles(size))
    if starts == [START]:
        scanned = list(islice(scan_corpus(file, fields), n + 1))
        records = [(file.where(position.number), item) for position, item in scanned[:n]]
        n_bytes = size if len(scanned) <= n else max(1, scanned[-1][0].offset) * _compression_ratio(file.uri)
        return records, len(records) / n_bytes
    # Equal numbers of bytes at each position, not of records, which would oversample long records.
    probes = [_read_span(file, fields, start, size, size, _PROBE_RECORDS) for start in starts]
    density = float(np.mean([len(probe) / n_bytes for probe, n_bytes in probes]))
    span = math.ceil(n / _N_POSITIONS / max(1 / size, density))
    if span * _N_POSITIONS >= size:
        records, _ = _read_span(file, fields, START, size, size)
        return records, len(records) / size
    spans = [_read_span(file, fields, start, size, span) for start in starts]
    records = [record for span_records, _ in spans for record in span_records]
    return records, len(records) / sum(n_bytes for _, n_bytes in spans)


def _read_span(
    file: CorpusFile, fields: Fields, start: Position, size: int, span: int, max_records: int | None = None
) -> tuple[Records, int]:
    """Return the records that begin in the `span` bytes from `start`, and the number of bytes that they occupy."""
    records: Records = []
    for position, item in scan_corpus(file, fields, start):
        if position.offset - start.offset >= span or len(records) == max_records:
            return records, position.offset - start.offset
        # Line numbers are unknown unless the file was read from its beginning.
        where = f"{file}, the line at byte {position.offset}" if start.offset else file.where(position.number)
        records.append((where, item))
    return records, size - start.offset


def _middles(size: int) -> list[int]:
    """Evenly spread positions, none at an end, where records of a sorted file are least typical."""
    return [(2 * index + 1) * size // (2 * _N_POSITIONS) for index in range(_N_POSITIONS)]


def _compression_ratio(uri: str) -> float:
    """Compressed bytes per byte of content, measured on enough content that read-ahead hardly matters."""
    codec = compression_of(uri)
    if not codec:
        return 1.0
    with open_file(uri) as raw, decompressed(raw, codec, 1 << 16) as stream:
        n_read = 0
        while n_read < _PROBE_BYTES and (n_bytes := len(stream.read(1 << 16))):
            n_read += n_bytes
        return float(raw.tell() / max(1, n_read))
