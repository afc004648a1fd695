"""A sample from all over a corpus, and how many records there are, without reading it all.

Tables, and lines that are not compressed, are read at several places. Of CSV, whose quotes hide where a record starts,
of quoted TSV, of JSON arrays, and of what is compressed only the beginning is read: where such files are sorted, the
sample is not like the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from raycol.data import BadRecord, CorpusFile, Fields, Passage
from raycol.data.corpus import OnError, empty_corpus_error, is_sequential, refuse, scan_corpus
from raycol.data.files import compression_of, decompressed, open_file, size_of
from raycol.data.position import START, Position
from raycol.data.readers.hub import open_dataset
from raycol.data.readers.jsonl import read_lines
from raycol.data.readers.npz import inspect_npz
from raycol.data.readers.parquet import cheap_starts, count_rows

_SAMPLED = 1024
# Places in a large file, or files of many, that the sample is taken from.
_PLACES = 16
# Records at each place that tell how long they are, about.
_LOOK = 8
# Content of a compressed file that is looked at.
_COMPRESSED_LOOK = 16 << 20

Records = list[tuple[str, Passage | BadRecord]]


@dataclass(frozen=True)
class Sample:
    """Documents of a corpus, each with where it stands.

    Args:
        passages: those that are usable as records; at least one.
        looked_at: how many records were read for that.
        records: how many the corpus has; exact where its files are tables.
    """

    passages: list[tuple[str, Passage]]
    looked_at: int
    records: int


def sample_corpus(files: Sequence[CorpusFile], fields: Fields, on_error: OnError) -> Sample:
    """Read some records.

    Raises:
        InputError: a file that cannot be read, an unusable record (unless skipped), or none that is usable.
    """
    sizes = {file: _n_rows(file) if file.is_table else size_of(file.uri) for file in files}
    full = [file for file in files if sizes[file]]
    chosen = [full[place * len(full) // _PLACES] for place in range(_PLACES)] if len(full) > _PLACES else full
    found: Records = []
    records_a_byte = []
    for file in chosen:
        each = math.ceil(_SAMPLED / len(chosen))
        if file.is_table:
            found += _sample_table(file, fields, sizes[file], each)
        else:
            lines, density = _sample_lines(file, fields, sizes[file], each)
            found += lines
            records_a_byte.append(density)
    problems = [BadRecord(where, item.what) for where, item in found if isinstance(item, BadRecord)]
    if problems:
        refuse(problems[0], on_error)
    passages = [(where, item) for where, item in found if isinstance(item, Passage)]
    if not passages:
        raise empty_corpus_error(files[0], problems[0] if problems else None)
    rows = sum(size for file, size in sizes.items() if file.is_table)
    n_bytes = sum(size for file, size in sizes.items() if not file.is_table)
    density = float(np.mean(records_a_byte)) if records_a_byte else 0.0
    return Sample(passages, len(found), rows + round(n_bytes * density))


def _n_rows(file: CorpusFile) -> int:
    if file.format == "dataset":
        return len(open_dataset(file))
    return count_rows(file.uri) if file.format == "parquet" else inspect_npz(file.uri)[0]


def _sample_table(file: CorpusFile, fields: Fields, size: int, n: int) -> Iterator[tuple[str, Passage | BadRecord]]:
    """Rows from all over a table."""
    compressed = file.format == "npz" and inspect_npz(file.uri)[1]
    each = math.ceil(n / _PLACES)
    starts = [max(0, middle - each // 2) for middle in _middles(size)] if size > n and not compressed else [0]
    if file.format == "parquet":
        starts = cheap_starts(file.uri, starts)
    for start in starts:
        rows = scan_corpus(file, fields, Position(start, start + 1), start, tokens=fields.encoded)
        for position, item in islice(rows, math.ceil(n / len(starts))):
            yield file.where(position.number), item


def _sample_lines(file: CorpusFile, fields: Fields, size: int, n: int) -> tuple[Records, float]:
    """Records of a file of lines, and how many there are in a byte (of a compressed one, a compressed byte)."""
    if compression_of(file.uri) or is_sequential(file):
        read = list(islice(scan_corpus(file, fields), n + 1))
        found = [(file.where(position.number), item) for position, item in read[:n]]
        whole = len(read) <= n
        return found, len(found) / (size if whole else max(1, read[-1][0].offset) * _compressed_share(file.uri))
    starts = [_line_start(file.uri, middle) for middle in _middles(size)]
    # As many bytes at each place, not as many records: long ones are not to be met more often than there are.
    looks = [_read_span(file, fields, start, size, size, _LOOK) for start in starts]
    span = math.ceil(n / _PLACES / max(1 / size, float(np.mean([len(look) / n_bytes for look, n_bytes in looks]))))
    if span * _PLACES >= size:
        found, _ = _read_span(file, fields, START, size, size)
        return found, len(found) / size
    spans = [_read_span(file, fields, start, size, span) for start in starts]
    found = [record for records, _ in spans for record in records]
    return found, len(found) / sum(n_bytes for _, n_bytes in spans)


def _read_span(
    file: CorpusFile, fields: Fields, start: Position, size: int, span: int, most: int | None = None
) -> tuple[Records, int]:
    """Records that begin within so many bytes from `start` (so many at most), and the bytes that they take."""
    found: Records = []
    for position, item in scan_corpus(file, fields, start):
        if position.offset - start.offset >= span or len(found) == most:
            return found, position.offset - start.offset
        # Further on nobody has counted the lines before.
        where = f"{file}, the line at byte {position.offset}" if start.offset else file.where(position.number)
        found.append((where, item))
    return found, size - start.offset


def _middles(size: int) -> list[int]:
    """Places evenly spread, none of them an end: what is sorted is at its oddest there."""
    return [(2 * place + 1) * size // (2 * _PLACES) for place in range(_PLACES)]


def _line_start(uri: str, offset: int) -> Position:
    """Where the first whole line after a byte starts."""
    found = next(islice(read_lines(uri, Position(offset)), 1, 2), None)
    return Position(found[0].offset) if found else START


def _compressed_share(uri: str) -> float:
    """Compressed bytes a byte of content. Of so much content that what was read ahead matters little."""
    codec = compression_of(uri)
    if not codec:
        return 1.0
    with open_file(uri) as raw, decompressed(raw, codec, 1 << 16) as stream:
        read = 0
        while read < _COMPRESSED_LOOK and (n_bytes := len(stream.read(1 << 16))):
            read += n_bytes
        return float(raw.tell() / max(1, read))
