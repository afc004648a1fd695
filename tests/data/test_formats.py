"""The same corpus in every format: equal passages, reading from any position, and errors for damaged files."""

import bz2
import csv
import datetime
import gzip
import io
import json
import lzma
import math
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycol.data import BadRecord, Fields, Passage, corpus_files, read_corpus
from raycol.data.corpus import scan_corpus
from raycol.data.readers.reader import Position
from raycol.errors import InputError

Records = list[dict[str, Any]]

RECORDS: Records = [
    {"id": "a", "title": 'A "quoted" one', "text": 'He said: "no", twice; it\'s 3" long'},
    {"id": "b", "title": "", "text": "Größe, 大きさ, 🙂 and a\u2028separator"},
    {"id": "ü-3", "title": "C", "text": "plain"},
]
PASSAGES = [Passage(**record) for record in RECORDS]


def lines_of(records: Records) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def csv_of(records: Records, end: str = "\r\n") -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(records[0]), lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue().encode()


def tsv_of(records: Records) -> bytes:
    rows = [list(records[0]), *(record.values() for record in records)]
    return "".join("\t".join(row) + "\n" for row in rows).encode()


def parquet_of(records: Records | pa.Table, **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(records if isinstance(records, pa.Table) else pa.Table.from_pylist(records), out, **options)
    return out.getvalue()


def npz_of(records: Records | None = None, **arrays: Any) -> bytes:
    out = io.BytesIO()
    columns = {name: np.array([record[name] for record in records]) for name in records[0]} if records else {}
    if records:
        columns["embeddings"] = np.ones((len(records), 1, 2), np.float32)
    np.savez_compressed(out, **columns | arrays)
    return out.getvalue()


def zstd(content: bytes) -> bytes:
    return pa.compress(content, "zstd", asbytes=True)


WRITERS: dict[str, Callable[[Records], bytes]] = {
    "c.jsonl": lines_of,
    "c.ndjson": lines_of,
    "c.json": lines_of,
    "c.jsonl.gz": lambda records: gzip.compress(lines_of(records)),
    "c.jsonl.zst": lambda records: zstd(lines_of(records)),
    "array.json": lambda records: json.dumps(records, indent=2).encode(),
    "array.jsonl": lambda records: json.dumps(records).encode(),
    "c.jsonl.bz2": lambda records: bz2.compress(lines_of(records)),
    "c.tsv.xz": lambda records: lzma.compress(tsv_of(records)),
    "quoted.tsv": lambda records: csv_of(records).replace(b'","', b'"\t"'),
    "c.csv": csv_of,
    "C.CSV.GZ": lambda records: gzip.compress(csv_of(records, "\n")),
    "c.csv.zst": lambda records: zstd(csv_of(records)),
    "c.tsv": tsv_of,
    "c.tsv.gz": lambda records: gzip.compress(tsv_of(records)),
    "c.parquet": lambda records: parquet_of(records, row_group_size=2),
    "c.npz": npz_of,
}


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def save_dataset(folder: Path, records: Records) -> Path:
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_list(records).save_to_disk(folder)
    return folder


def scan(path: Path, fields: Fields | None = None, start: Position = Position(), number: int = 0) -> list:  # noqa: B008
    """All records of a single-file corpus, with their positions and embeddings."""
    (file,) = corpus_files(str(path))
    return list(scan_corpus(file, fields or Fields(), start, number, tokens=True))


def refusal(path: Path, fields: Fields | None = None) -> str:
    """Message of the error that reading a corpus raises; it names the file."""
    with pytest.raises(InputError) as error:
        list(read_corpus(path, fields=fields))
    assert str(path) in str(error.value)
    return str(error.value)


def metadata_of(path: Path, name: str, kind: str = "") -> list[Any]:
    return [passage.metadata[name] for passage in read_corpus(path, fields=Fields(metadata={name: kind}))]


def tokens_of(path: Path, **fields: Any) -> list[np.ndarray]:
    return [np.asarray(passage.embeddings) for _, passage in scan(path, Fields(encoded=True, **fields))]


# The same corpus


@pytest.mark.parametrize("name", WRITERS)
def test_all_formats_give_the_same_passages(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, WRITERS[name](RECORDS))
    assert list(read_corpus(path)) == PASSAGES
    assert_readable_from_anywhere(path)


def test_saved_dataset_gives_the_same_passages(tmp_path: Path) -> None:
    folder = save_dataset(tmp_path / "saved", RECORDS)
    assert list(read_corpus(folder)) == PASSAGES
    assert_readable_from_anywhere(folder)


def assert_readable_from_anywhere(path: Path, fields: Fields | None = None, step: int = 1) -> None:
    """Reading from every record, or every `step`-th one, yields the rest of the corpus."""
    whole = scan(path, fields)
    for number, (position, _) in list(enumerate(whole))[::step]:
        assert scan(path, fields, position, number) == whole[number:]


# Quotes and line endings are the hard cases of CSV.
TEXTS = st.lists(
    st.text(st.one_of(st.sampled_from('",\r\n\t\\ \ufeff'), st.characters(exclude_categories=["Cs"]))),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize("name", ["c.jsonl", "c.csv", "c.csv.zst", "c.tsv", "c.parquet"])
@given(texts=TEXTS)
def test_any_text_is_read_unchanged_from_any_position(
    tmp_path_factory: pytest.TempPathFactory, name: str, texts: list[str]
) -> None:
    if ".tsv" in name:
        texts = [text.translate({ord(sign): " " for sign in "\t\r\n"}) for text in texts]
    records = [{"id": str(number), "title": text, "text": f"x{text}"} for number, text in enumerate(texts)]
    path = write(tmp_path_factory.mktemp("any") / name, WRITERS[name](records))
    assert list(read_corpus(path)) == [Passage(**record) for record in records]
    assert_readable_from_anywhere(path)


@pytest.mark.parametrize("name", ["c.jsonl.gz", "c.csv", "c.tsv.gz", "c.parquet", "c.npz", "saved"])
def test_long_texts_and_many_rows(tmp_path: Path, name: str) -> None:
    records = [{"id": str(number), "title": "", "text": "short"} for number in range(1500)]
    records[700]["text"] = "long " * 200_000
    path = tmp_path / name
    if name == "saved":
        save_dataset(path, records)
    elif name == "c.parquet":
        write(path, parquet_of(records, row_group_size=600))
    elif name == "c.npz":
        write(path, npz_of([{"id": record["id"], "text": record["text"][:9]} for record in records]))
    else:
        write(path, WRITERS[name](records))
    whole = scan(path)
    assert [passage.id for _, passage in whole] == [record["id"] for record in records]
    if name != "c.npz":
        assert whole[700][1].text == records[700]["text"]
    for number in (1, 511, 512, 599, 600, 601, 700, 1023, 1200, 1499):
        assert scan(path, start=whole[number][0], number=number) == whole[number:]


def test_reading_past_the_end_yields_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "c.parquet", parquet_of(RECORDS))
    assert scan(path, start=Position(3, 4)) == []
    folder = save_dataset(tmp_path / "saved", RECORDS)
    assert scan(folder, start=Position(3, 4)) == []


def test_compressed_file_with_several_members(tmp_path: Path) -> None:
    lines = [lines_of([record]) for record in RECORDS]
    codecs = {"gz": gzip.compress, "zst": zstd, "bz2": bz2.compress, "xz": lzma.compress}
    for name, compress in ((f"c.jsonl.{suffix}", codec) for suffix, codec in codecs.items()):
        assert list(read_corpus(write(tmp_path / name, b"".join(map(compress, lines))))) == PASSAGES


@pytest.mark.parametrize("name", ["c.jsonl", "c.csv", "c.tsv"])
def test_blank_lines_crlf_and_missing_final_newline(tmp_path: Path, name: str) -> None:
    first, *rest = WRITERS[name](RECORDS).splitlines()
    content = b"\r\n".join([first, b"", *rest])
    path = write(tmp_path / name, content)
    assert list(read_corpus(path)) == PASSAGES
    assert_readable_from_anywhere(path)


@pytest.mark.parametrize("name", ["c.jsonl", "c.csv", "c.tsv"])
def test_byte_order_mark_is_ignored(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, b"\xef\xbb\xbf" + WRITERS[name](RECORDS))
    assert list(read_corpus(path)) == PASSAGES
    assert_readable_from_anywhere(path)


# Damage

DAMAGED = {
    "c.jsonl.gz": "cannot be read (Truncated",
    "c.csv.zst": "cannot be read (",
    "c.jsonl.bz2": "cannot be read (",
    "c.tsv.xz": "cannot be read (",
    "c.parquet": "cannot be read (",
    "c.npz": "not a usable .npz file (",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_truncated_file_is_reported(tmp_path: Path, name: str) -> None:
    whole = WRITERS[name](RECORDS)
    for end in (len(whole) // 2, len(whole) - 5):
        assert DAMAGED[name] in refusal(write(tmp_path / name, whole[:end]))


@pytest.mark.parametrize("name", DAMAGED)
def test_file_of_another_format_is_reported(tmp_path: Path, name: str) -> None:
    assert DAMAGED[name].partition("(")[0] in refusal(write(tmp_path / name, b"something else\n" * 50))


@pytest.mark.parametrize("name", ["c.jsonl", "c.csv", "c.tsv", "c.csv.zst", "c.parquet", "c.npz"])
def test_empty_file_has_no_records(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, zstd(b"") if name.endswith(".zst") else b"")
    assert "an empty corpus" in refusal(path)
    assert "an empty corpus" in refusal(tmp_path)
    write(tmp_path / "z.jsonl", lines_of(RECORDS))
    assert list(read_corpus(tmp_path)) == PASSAGES


@pytest.mark.parametrize("name", ["c.jsonl", "c.jsonl.zst", "c.csv", "c.csv.zst", "c.tsv", "c.tsv.xz", "c.jsonl.bz2",
                                  "array.json", "quoted.tsv", "c.parquet", "c.npz"])  # fmt: skip
@given(data=st.data())
def test_damaged_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    content = bytearray(WRITERS[name](RECORDS))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(len(content) // 2, len(content))) :]
    path = write(tmp_path_factory.mktemp("damaged") / name, bytes(content))
    fields = Fields(metadata={"title": "date"}, encoded=name == "c.npz")
    try:
        items = scan(path, fields)
    except InputError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        assert all(isinstance(item, Passage | BadRecord) for _, item in items)


@pytest.mark.parametrize("where", [0.3, 0.6, 0.99])
def test_damaged_saved_dataset_is_reported(tmp_path: Path, where: float) -> None:
    folder = save_dataset(tmp_path / "saved", RECORDS)
    (arrow,) = folder.glob("*.arrow")
    write(arrow, arrow.read_bytes()[: int(arrow.stat().st_size * where)])
    assert "cannot be opened" in refusal(folder)


def test_arrow_offsets_out_of_bounds_are_refused(tmp_path: Path) -> None:
    folder = save_dataset(tmp_path / "saved", [{"id": "a", "text": "x" * 4097}])
    (arrow,) = folder.glob("*.arrow")
    content = arrow.read_bytes()
    assert content.count((4097).to_bytes(4, "little")) >= 1
    write(arrow, content.replace((4097).to_bytes(4, "little"), (1 << 30).to_bytes(4, "little")))
    refusal(folder)


# Lines with fields


def test_unusable_rows_are_reported_by_line_and_skipped(tmp_path: Path) -> None:
    path = write(tmp_path / "c.csv", 'id,text\na,"one\ntwo"\nb\nc,three,four\n"d"x,five\ne,six\n')
    problems: list[BadRecord] = []
    assert [passage.id for passage in read_corpus(path, "skip", problems)] == ["a", "e"]
    assert [str(problem) for problem in problems] == [
        f"{path}, line 4: 1 fields; expected 2, one per column",
        f"{path}, line 5: 3 fields; expected 2, one per column",
        f"{path}, line 6: not a row of CSV (',' expected after '\"')",
    ]
    assert "line 4: 1 fields; expected 2, one per column; correct it" in refusal(path)
    assert_readable_from_anywhere(path)


def test_unclosed_quote_is_reported_at_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "c.csv", 'id,text\na,one\nb,"two\nc,three\n')
    assert "line 3: not a row of CSV (unexpected end of data)" in refusal(path)
    assert "line 1: not a row of CSV" in refusal(write(path, '"id,text\na,one\n'))


def test_error_of_a_quoted_field_gives_its_number_of_lines(tmp_path: Path) -> None:
    problems: list[BadRecord] = []
    path = write(tmp_path / "c.csv", 'id,text\na,one\nb,"two\nc,three\nd,four\n')
    assert [passage.id for passage in read_corpus(path, "skip", problems)] == ["a"]
    assert str(problems.pop()).endswith("(unexpected end of data); a quote in it opens a field that spans 3 lines")
    write(path, 'id,text\n"a,one\nb",two,three\nc,four\n')
    assert [passage.id for passage in read_corpus(path, "skip", problems)] == ["c"]
    assert str(problems.pop()).endswith(
        "3 fields; expected 2, one per column; a quote in it opens a field that spans 2 lines"
    )


@pytest.mark.parametrize(
    ("content", "texts", "quoted"),
    [
        # DPR's passages: all texts are quoted.
        ('id\ttext\ttitle\n1\t"So ""he"" said"\tA\n2\t"plain, text"\tB\n', ['So "he" said', "plain, text"], True),
        ('1\t"one"\n2\t"two"\n3\t"three"\n4\tfour\n', ["one", "two", "three", "four"], True),
        # pandas: fields are quoted only if necessary.
        ('id\ttext\na\tone\nb\ttwo\nc\t"a ""b"" c"\n', ["one", "two", 'a "b" c'], True),
        ('id\ttext\r\na\tone\r\nb\ttwo\r\nc\t"three\nfour"\r\n', ["one", "two", "three\nfour"], True),
        # Quotes that are part of the texts.
        ('id\ttext\na\tone\nb\t"two"\nc\tthree\n', ["one", '"two"', "three"], False),
        ('a\t"one\nb\ttwo"\nc\tthree\n', ['"one', 'two"', "three"], False),
        ('a\t"one" and "two"\nb\t"two"\nc\t"three"\n', ['"one" and "two"', '"two"', '"three"'], False),
        ('a\tsix " wide\nb\t"two"\nc\t"three"\n', ['six " wide', '"two"', '"three"'], False),
    ],
)
def test_quotes_in_tsv_are_detected(
    tmp_path: Path, content: str, texts: list[str], quoted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "c.tsv", content)
    assert [passage.text for passage in read_corpus(path)] == texts
    assert ("fields are quoted" in capsys.readouterr().err) == quoted
    assert_readable_from_anywhere(path)


@pytest.mark.slow
def test_oversized_record_is_refused_without_reading_it_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line of 6 GB may compress to a few hundred bytes; see `MAX_RECORD_BYTES`."""
    monkeypatch.setattr("raycol.data.files.MAX_RECORD_BYTES", 1000)
    monkeypatch.setattr("raycol.data.readers.jsonl.MAX_RECORD_BYTES", 1000)
    monkeypatch.setattr("raycol.data.readers.delimited.MAX_RECORD_BYTES", 1000)
    long: Records = [{"id": "long", "title": "", "text": "x" * 2_500_000}]
    for name in ("c.jsonl.zst", "c.csv.zst", "c.tsv", "quoted.tsv"):
        path = write(tmp_path / name, WRITERS[name]([*RECORDS[:1], *long, *RECORDS[1:]]))
        problems: list[BadRecord] = []
        assert list(read_corpus(path, "skip", problems)) == PASSAGES, name
        assert [problem.what for problem in problems] == ["the record exceeds the limit of 64 MiB"]
        assert_readable_from_anywhere(path)
    assert "record 2: the record exceeds the limit of 64 MiB" in refusal(
        write(tmp_path / "a.json", WRITERS["array.json"]([*RECORDS[:1], *long]))
    )


@pytest.mark.slow
@pytest.mark.long
def test_text_shared_by_many_rows_is_in_memory_once(tmp_path: Path) -> None:
    """A Parquet file of 2 kB may decode to gigabytes: a dictionary stores each distinct value once."""
    text = "x" * (1 << 21)
    texts = pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 0] * 128, pa.int32()), pa.array([text, "é"]))
    ids = [str(number) for number in range(512)]
    path = write(tmp_path / "c.parquet", parquet_of(pa.table({"id": ids, "text": texts, "title": ids})))
    passages = list(read_corpus(path))
    assert [passage.text for passage in passages] == [text, "é", "", text] * 128
    assert len({id(passage.text) for passage in passages if len(passage.text) > 1}) == 1
    assert_readable_from_anywhere(path, step=99)
    plain = pa.table({"id": ids, "text": pa.array([text[: number * 99] + "é" for number in range(512)])})
    assert [len(passage.text) for passage in read_corpus(write(path, parquet_of(plain)))] == [
        number * 99 + 1 for number in range(512)
    ]


@pytest.mark.parametrize("value", ["[" * 70 + "]" * 70, "[" * 100_000, '{"a":' * 900 + "1" + "}" * 900])
def test_deep_nesting_is_refused(tmp_path: Path, value: str) -> None:
    path = write(tmp_path / "c.jsonl", f'{{"id": "a", "text": {value}}}\n')
    assert "not usable JSON (nested too deeply)" in refusal(path) or "not JSON" in refusal(path)


def test_damaged_json_array_is_reported(tmp_path: Path) -> None:
    whole = WRITERS["array.json"](RECORDS)
    assert "the array is incomplete" in refusal(write(tmp_path / "c.json", whole[:-3]))
    assert "the array is incomplete; the file ends inside an element" in refusal(
        write(tmp_path / "c.json", whole[:-30])
    )
    assert "content after the array" in refusal(write(tmp_path / "c.json", whole + b"{}"))
    problems: list[BadRecord] = []
    write(tmp_path / "c.json", b'[{"id": "a", "text": "x"}, 7, "s", null, {"id": "b", "text": "y"}]')
    assert [passage.id for passage in read_corpus(tmp_path / "c.json", "skip", problems)] == ["a", "b"]
    assert [problem.where for problem in problems] == [f"{tmp_path}/c.json, record {n}" for n in (2, 3, 4)]


def test_json_object_over_several_lines_is_reported(tmp_path: Path) -> None:
    path = write(tmp_path / "c.json", json.dumps(RECORDS[0], indent=2))
    assert "does a value span several lines? expected one value per line, or an array" in refusal(path)


@pytest.mark.parametrize("window_log", [28, 31])
def test_large_zstd_windows(tmp_path: Path, window_log: int) -> None:
    """`zstd --long=31` writes such windows; Arrow refuses a window log above 27."""
    zstandard = pytest.importorskip("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    options = {zstandard.CompressionParameter.window_log: window_log}
    writer = zstandard.ZstdCompressor(options=options)
    path = write(tmp_path / "c.jsonl.zst", writer.compress(lines_of(RECORDS)) + writer.flush())
    with pytest.raises(OSError, match="too much memory"):
        pa.input_stream(str(path)).read()
    assert list(read_corpus(path)) == PASSAGES


def test_first_row_with_a_number_is_not_a_header(tmp_path: Path) -> None:
    path = write(tmp_path / "c.tsv", "12\tDocument\n13\tPassage\n")
    assert [passage.text for passage in read_corpus(path)] == ["Document", "Passage"]
    write(path, "id\ttext\t2024\na\tone\t5\n")  # next to two known names, a number may be a name
    assert metadata_of(path, "2024") == ["5"]
    write(path, "0\t1\t2\na\tone\t5\n")
    assert [passage.text for passage in read_corpus(path, fields=Fields(id="0", text="1"))] == ["one"]


def test_inferred_columns_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "c.tsv", "a\tone\tA\n")
    list(read_corpus(path))
    assert capsys.readouterr().err == (
        f"{path}: no header, the first line is data; column 1 is 'id', column 2 is 'text', column 3 is 'title'\n"
    )


def test_passage_id_takes_precedence_over_document_id(tmp_path: Path) -> None:
    """MS MARCO v2 has both."""
    records = [{"pid": f"p{n}", "docid": "d", "passage": "text", "spans": "(0,9)"} for n in range(2)]
    path = write(tmp_path / "c.jsonl", lines_of(records))
    assert [passage.id for passage in read_corpus(path)] == ["p0", "p1"]
    path = write(tmp_path / "c.jsonl", lines_of([{"docid": "d#1", "title": "T", "segment": "text"}]))
    assert [(passage.id, passage.text) for passage in read_corpus(path)] == [("d#1", "text")]


def test_nan_is_a_missing_value(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", '{"id": "a", "title": NaN, "text": "one"}\n')
    assert list(read_corpus(path)) == [Passage("a", "", "one")]
    assert "no '_id'" in refusal(write(path, '{"id": NaN, "text": "one"}\n'))


@pytest.mark.parametrize("value", [["a", "b"], {"a": 1}, [1, 2]])
def test_list_metadata_is_refused_with_remedy(tmp_path: Path, value: Any) -> None:
    records: Records = [{"id": "a", "text": "one", "tags": value}]
    for name in ("c.jsonl", "c.parquet"):
        for kind in ("", "string"):
            message = refusal(write(tmp_path / name, WRITERS[name](records)), Fields(metadata={"tags": kind}))
            assert "'tags' of 'a' is a" in message
            assert "join the values into a text, which filters search with LIKE" in message


def test_unquoted_tsv_keeps_quotes(tmp_path: Path) -> None:
    path = write(tmp_path / "c.tsv", 'id\ttext\na\t"one\nb\t"two" three\n')
    assert [passage.text for passage in read_corpus(path)] == ['"one', '"two" three']


@pytest.mark.parametrize("name", ["c.csv", "c.tsv"])
def test_carriage_return_inside_a_line_is_reported(tmp_path: Path, name: str) -> None:
    separator = "," if name == "c.csv" else "\t"
    path = write(tmp_path / name, f"id{separator}text\na{separator}o\rne\n")
    assert "line 2: not a row" in refusal(path)


@pytest.mark.parametrize("column", ["id", "title", "text", "lang"])
@pytest.mark.parametrize("name", ["c.csv", "c.tsv", "c.jsonl"])
def test_invalid_utf_8_is_reported(tmp_path: Path, name: str, column: str) -> None:
    record = {"id": "a", "title": "A", "text": "one", "lang": "en"} | {column: "caf@"}
    path = write(tmp_path / name, WRITERS[name]([record]).replace(b"@", b"\xe9"))
    message = refusal(path, Fields(metadata={"lang": ""}))
    assert "not UTF-8" in message
    assert f"line {1 if name == 'c.jsonl' else 2}: " in message


@pytest.mark.parametrize("column", ["id", "text", "lang"])
def test_lone_surrogate_is_reported(tmp_path: Path, column: str) -> None:
    record = {"id": "a", "text": "one", "lang": "en"} | {column: "\ud83d"}
    path = write(tmp_path / "c.jsonl", json.dumps(record))
    assert "half of a surrogate pair" in refusal(path, Fields(metadata={"lang": "string"}))


def test_headerless_tsv_columns(tmp_path: Path) -> None:
    two, three = write(tmp_path / "2.tsv", "0\tone\n1\ttwo\n"), write(tmp_path / "3.tsv", "0\tone\tT\n1\ttwo\t\n")
    assert list(read_corpus(two)) == [Passage("0", "", "one"), Passage("1", "", "two")]
    assert list(read_corpus(three)) == [Passage("0", "T", "one"), Passage("1", "", "two")]
    assert_readable_from_anywhere(two)
    assert list(read_corpus(write(two, b"\xef\xbb\xbf0\tone\n"))) == [Passage("0", "", "one")]


@pytest.mark.parametrize(
    "header", ["docid,contents", "contents,docid", "_id,text", "pid,passage", "doc_id,body", "ID,Text", "Text,Doc_ID"]
)
def test_header_of_common_names(tmp_path: Path, header: str) -> None:
    names = header.split(",")
    values = ["one" if name.lower() in ("contents", "text", "passage", "body") else "a" for name in names]
    row = ",".join(values)
    expected = [Passage("a", "", "one")]
    assert list(read_corpus(write(tmp_path / "c.csv", f"{header}\n{row}\n"))) == expected
    assert list(read_corpus(write(tmp_path / "c.tsv", f"{header}\n{row}\n".replace(",", "\t")))) == expected
    record = dict(zip(names, values, strict=True))
    assert list(read_corpus(write(tmp_path / "c.jsonl", lines_of([record])))) == expected
    assert list(read_corpus(write(tmp_path / "c.parquet", parquet_of([record])))) == expected


def test_exact_case_takes_precedence(tmp_path: Path) -> None:
    path = write(tmp_path / "c.csv", "Id,Title,Text,text\na,T,no,one\n")
    assert list(read_corpus(path)) == [Passage("a", "T", "one")]
    assert "no column 'ID' for the id" in refusal(path, Fields(id="ID"))


def test_header_of_given_names(tmp_path: Path) -> None:
    path = write(tmp_path / "c.csv", "nr,words\na,one\n")
    assert list(read_corpus(path, fields=Fields(id="nr", text="words"))) == [Passage("a", "", "one")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("one\n", "no known column name in one; name the id and text with `id_column=` and `text_column=`"),
        ("name,description,url\na,one,x\n", "no known column name in name, description, url; name"),
        ("0,one\n", "no known column name in 0, one"),
        ("a,b,c,d\n", "no known column name in a, b, c, d"),
        ("id,text,text\n", "line 1: duplicate column name (id, text, text)"),
        ("id,text\n", "an empty corpus"),
        ("id,words\na,one\n", "no column for the text among id, words; name it with `text_column=`"),
        ("key,text\na,one\n", "no column for the id among key, text; name it with `id_column=`, or generate ids"),
    ],
)
def test_table_without_required_columns_is_refused(tmp_path: Path, content: str, message: str) -> None:
    assert message in refusal(write(tmp_path / "c.csv", content))


# Fields


@pytest.mark.parametrize("name", ["c.csv", "c.tsv.gz", "c.parquet", "c.npz", "saved"])
def test_missing_columns_are_reported(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    save_dataset(path, RECORDS) if name == "saved" else write(path, WRITERS[name](RECORDS))
    columns = "id, title, text"
    assert f"no column 'nr' for the id; it has {columns}" in refusal(path, Fields(id="nr"))
    assert f"no column 'words' for the text; it has {columns}" in refusal(path, Fields(text="words"))
    assert f"no column 'lang' for metadata; it has {columns}" in refusal(path, Fields(metadata={"lang": ""}))
    if name != "c.npz":
        assert "no column for the embeddings among" in refusal(path, Fields(encoded=True))


def test_json_line_without_a_given_field_is_reported(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", lines_of(RECORDS))
    assert "line 1: no 'nr'; correct it" in refusal(path, Fields(id="nr"))
    assert metadata_of(path, "lang") == [None] * 3


def test_title_does_not_replace_a_missing_text_field(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", lines_of([{"id": "a", "title": "T", "abstract": "one"}]))
    assert "line 1: document 'a' has no text (none of 'text', 'contents', " in refusal(path)
    assert "line 1: document 'a' has no 'abstrakt'; correct it" in refusal(path, Fields(text="abstrakt"))
    assert next(read_corpus(path, fields=Fields(text="abstract"))) == Passage("a", "T", "one")
    for text in ("", None):
        write(path, lines_of([{"id": "a", "title": "T", "text": text}]))
        assert next(read_corpus(path)) == Passage("a", "T", "")


@pytest.mark.parametrize("title", [7, False, [], ["x"], {}])
def test_titles_and_texts_must_be_strings(tmp_path: Path, title: Any) -> None:
    path = write(tmp_path / "c.jsonl", lines_of([{"id": "a", "title": title, "text": "one"}]))
    assert f"the title of 'a' is a {type(title).__name__}; expected a string" in refusal(path)
    assert next(read_corpus(write(path, '{"id": "a", "title": null, "text": "one"}'))).title == ""
    path = write(tmp_path / "c.parquet", parquet_of([{"id": "a", "text": [0.5, 1.5]}]))
    assert "row 1: the text of 'a' is a ndarray; expected a string" in refusal(path)


def test_integer_ids(tmp_path: Path) -> None:
    records: Records = [{"id": 7, "text": "one"}, {"id": -1, "text": "two"}]
    for path in (
        write(tmp_path / "c.parquet", parquet_of(records)),
        write(tmp_path / "c.npz", npz_of(records)),
        write(tmp_path / "c.jsonl", lines_of(records)),
        save_dataset(tmp_path / "saved", records),
    ):
        assert [passage.id for passage in read_corpus(path)] == ["7", "-1"]


@pytest.mark.parametrize("id_", [True, 1.0, b"a", "", None, "é" * 300])
def test_invalid_ids_are_refused(tmp_path: Path, id_: Any) -> None:
    path = write(tmp_path / "c.parquet", parquet_of([{"id": id_, "text": "one"}]))
    message = refusal(path)
    assert "row 1: " in message
    assert "no '_id'" in message if id_ is None else "the id " in message


def test_generated_ids(tmp_path: Path) -> None:
    for name in ("c.jsonl", "c.csv", "c.parquet", "c.npz"):
        folder = tmp_path / f"of {name}"
        folder.mkdir()
        for part in "ab":
            write(folder / f"{part}-{name}", WRITERS[name](RECORDS))
        made = [passage.id for passage in read_corpus(folder, fields=Fields(make_ids="d"))]
        assert made == [f"d{number}" for number in range(6)]
    path = write(tmp_path / "c.tsv", "text\none\ntwo\n")
    fields = Fields(make_ids="")
    assert list(read_corpus(path, fields=fields)) == [Passage("0", "", "one"), Passage("1", "", "two")]
    assert_readable_from_anywhere(path, fields)


@pytest.mark.parametrize("name", ["c.parquet", "c.npz", "saved"])
def test_generated_ids_of_embeddings_alone(tmp_path: Path, name: str) -> None:
    """No column is read, but every row yields a document."""
    path, records = tmp_path / name, [{"embeddings": [[1.0, 2.0]]}] * 3
    if name == "saved":
        save_dataset(path, records)
    else:
        write(path, parquet_of(records) if name == "c.parquet" else npz_of(embeddings=np.ones((3, 1, 2))))
    fields = Fields(make_ids="d", encoded=True)
    assert [passage.id for passage in read_corpus(path, fields=fields)] == ["d0", "d1", "d2"]
    assert_readable_from_anywhere(path, fields)


def test_duplicate_id_is_reported_with_both_locations(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", lines_of(RECORDS))
    path = write(tmp_path / "b.parquet", parquet_of([{"id": "new", "text": "x"}, RECORDS[1]]))
    with pytest.raises(InputError) as error:
        list(read_corpus(tmp_path))
    assert f"{path}, row 2: duplicate id 'b', first on {tmp_path / 'a.jsonl'}, line 2" in str(error.value)


# Metadata

UTC = datetime.UTC


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("", math.nan, None),
        ("int64", math.nan, None),
        ("double", math.nan, None),
        ("double", "nan", None),
        ("string", math.nan, None),
        ("string", 7, "7"),
        ("string", "", ""),
        ("int64", "-12", -12),
        ("int64", 3.0, 3),
        ("int64", "", None),
        ("int64", None, None),
        ("double", "1e3", 1000.0),
        ("double", 2, 2.0),
        ("bool", "TRUE", True),
        ("bool", 0, False),
        ("date", "2024-02-29", datetime.date(2024, 2, 29)),
        ("date", "2024-02-29T23:59:59Z", datetime.date(2024, 2, 29)),
        ("timestamp", "2024-02-29", datetime.datetime(2024, 2, 29, tzinfo=UTC)),
        ("timestamp", "2024-02-29 12:30", datetime.datetime(2024, 2, 29, 12, 30, tzinfo=UTC)),
        ("timestamp", "2024-02-29T12:30+01:00", datetime.datetime(2024, 2, 29, 11, 30, tzinfo=UTC)),
    ],
)
def test_metadata_is_converted(tmp_path: Path, kind: str, value: Any, expected: Any) -> None:
    path = write(tmp_path / "c.jsonl", lines_of([{"id": "a", "text": "one", "m": value}]))
    (converted,) = metadata_of(path, "m", kind)
    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("int64", "1.5"),
        ("int64", 1.5),
        ("int64", float("inf")),
        ("int64", 2**63),
        ("int64", "x"),
        ("int64", [1]),
        ("double", "x"),
        ("double", 10**400),
        ("double", {}),
        ("bool", "yes"),
        ("bool", 2),
        ("date", "29.02.2024"),
        ("date", "2023-02-29"),
        ("date", "2024-02-29 or so"),
        ("timestamp", "0001-01-01T00:00:00+14:00"),
        ("timestamp", "9999-12-31T23:59:59-14:00"),
        ("timestamp", "soon"),
        ("timestamp", 1_700_000_000),
        ("timestamp", [2024]),
    ],
)
def test_metadata_conversion_error_is_reported(tmp_path: Path, kind: str, value: Any) -> None:
    path = write(tmp_path / "c.jsonl", lines_of([RECORDS[0], {"id": "x", "text": "one", "m": value}]))
    message = refusal(path, Fields(metadata={"m": kind}))
    assert "line 2: 'm' of 'x' is " in message
    assert f"expected a {kind}; correct it" in message


def test_fraction_is_not_truncated_to_int(tmp_path: Path) -> None:
    path = write(tmp_path / "c.parquet", parquet_of([{"id": "a", "text": "one", "m": Decimal("1.5")}]))
    assert "expected a int64" in refusal(path, Fields(metadata={"m": "int64"}))


def test_unknown_metadata_type_is_refused() -> None:
    with pytest.raises(InputError, match="metadata 'm' of type 'int'; expected one of string, int64, double"):
        Fields(metadata={"m": "int"})


@pytest.mark.parametrize("name", ["c.parquet", "c.npz", "saved"])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_timestamps_without_a_time_zone_are_utc(tmp_path: Path, name: str, unit: str) -> None:
    when = np.array(["2024-02-29T12:30:00"], f"datetime64[{unit}]")
    path = tmp_path / name
    if name == "c.npz":
        write(path, npz_of([{"id": "a", "text": "one"}], when=when))
    else:
        table = pa.table({"id": ["a"], "text": ["one"], "when": pa.array(when)})
        if name == "saved":
            import datasets

            datasets.disable_progress_bars()
            datasets.Dataset(table).save_to_disk(path)
        else:
            write(path, parquet_of(table))
    for kind in ("", "timestamp"):
        assert metadata_of(path, "when", kind) == [datetime.datetime(2024, 2, 29, 12, 30, tzinfo=UTC)]
        assert [type(value) for value in metadata_of(path, "when", kind)] == [datetime.datetime]
    assert metadata_of(path, "when", "date") == [datetime.date(2024, 2, 29)]


def test_typed_metadata_keeps_its_type(tmp_path: Path) -> None:
    values = {"i": 5, "d": 0.5, "b": True, "s": "x", "t": datetime.date(2024, 2, 29), "n": None}
    path = write(tmp_path / "c.parquet", parquet_of([{"id": "a", "text": "one", **values}]))
    fields = Fields(metadata=dict.fromkeys(values, ""))
    assert next(read_corpus(path, fields=fields)).metadata == values
    strings = Fields(metadata=dict.fromkeys(values, "string"))
    assert next(read_corpus(path, fields=strings)).metadata["t"] == "2024-02-29"


@pytest.mark.parametrize(
    "values", [pa.array([2**62], pa.timestamp("us")), pa.array([2**30], pa.date32())], ids=["timestamp", "date"]
)
def test_out_of_range_dates_are_reported(tmp_path: Path, values: pa.Array) -> None:
    path = write(tmp_path / "c.parquet", parquet_of(pa.table({"id": ["a"], "text": ["one"], "when": values})))
    assert f"column 'when' of type {values.type} cannot be read" in refusal(path, Fields(metadata={"when": ""}))


def test_invalid_utf_8_in_parquet_is_reported_by_row(tmp_path: Path) -> None:
    raw = pa.array([b"one", b"\xff\xfe"])
    texts = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    path = write(tmp_path / "c.parquet", parquet_of(pa.table({"id": ["a", "b"], "text": texts})))
    assert "row 2: the text of 'b' is not UTF-8" in refusal(path)
    assert [passage.id for passage in read_corpus(path, "skip")] == ["a"]


# Embeddings

TOKENS = [np.arange(length * 4, dtype=np.float32).reshape(length, 4) / 8 for length in (2, 1, 3)]
IDS = ["a", "b", "c"]


@pytest.mark.parametrize("number", [pa.float16(), pa.float32(), pa.float64()], ids=str)
@pytest.mark.parametrize("width", [-1, 4], ids=["list", "fixed_size_list"])
@pytest.mark.parametrize("outer", [pa.list_, pa.large_list])
def test_parquet_embeddings(
    tmp_path: Path, outer: Callable[..., pa.DataType], number: pa.DataType, width: int
) -> None:
    kind = outer(pa.list_(number, width))
    rows = [[[np.float16(value) for value in row] for row in tokens] for tokens in TOKENS]
    table = pa.table({"id": IDS, "embeddings": pa.array(rows, kind)})
    path = write(tmp_path / "c.parquet", parquet_of(table, row_group_size=2))
    arrays = tokens_of(path)
    assert all((one == other).all() for one, other in zip(arrays, TOKENS, strict=True))
    assert all(tokens.dtype == number.to_pandas_dtype() for tokens in arrays)
    start = scan(path, Fields(encoded=True))[2][0]
    (rest,) = scan(path, Fields(encoded=True), start)
    assert (rest[1].embeddings == TOKENS[2]).all()


def test_ragged_embeddings_are_left_to_the_index(tmp_path: Path) -> None:
    ragged: list[Any] = [[[1.0, 2.0], [3.0]], [[1.0], [2.0, 3.0, 4.0]], [], [[]], None, [[1.0, 2.0], None]]
    records = [{"id": str(number), "embeddings": rows} for number, rows in enumerate(ragged)]
    path = write(tmp_path / "c.parquet", parquet_of(records))
    embeddings = [passage.embeddings for _, passage in scan(path, Fields(encoded=True))]
    assert [
        list(map(list, rows)) if rows is not None and None not in rows else rows for rows in embeddings[:4]
    ] == ragged[:4]
    assert embeddings[4:] == ragged[4:]


def test_embeddings_in_saved_dataset_and_json(tmp_path: Path) -> None:
    records = [{"id": id_, "embedding": tokens.tolist()} for id_, tokens in zip(IDS, TOKENS, strict=True)]
    for path in (save_dataset(tmp_path / "saved", records), write(tmp_path / "c.jsonl", lines_of(records))):
        assert all((one == other).all() for one, other in zip(tokens_of(path), TOKENS, strict=True))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_npz_with_concatenated_embeddings_and_lengths(tmp_path: Path, dtype: Any) -> None:
    flat = np.concatenate(TOKENS).astype(dtype)
    content = npz_of(embeddings=flat, lengths=[2, 1, 3], ids=IDS, year=[1999, 2000, 2001])
    path = write(tmp_path / "c.npz", content)
    assert all((one == other).all() for one, other in zip(tokens_of(path), TOKENS, strict=True))
    fields = Fields(encoded=True, metadata={"year": ""})
    whole = scan(path, fields)
    assert [passage.metadata["year"] for _, passage in whole] == [1999, 2000, 2001]
    for number, (position, _) in enumerate(whole):
        rest = scan(path, fields, position, number)
        assert rest == whole[number:]
        assert all((item.embeddings == TOKENS[number + n]).all() for n, (_, item) in enumerate(rest))


def test_npz_with_one_embedding_block(tmp_path: Path) -> None:
    block = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
    path = write(tmp_path / "c.npz", npz_of(embeddings=block, ids=[5, 6, 7]))
    assert (np.stack(tokens_of(path)) == block).all()
    whole = scan(path, Fields(encoded=True))
    assert [passage.id for _, passage in whole] == ["5", "6", "7"]
    (rest,) = scan(path, Fields(encoded=True), whole[2][0], 2)
    assert (rest[1].embeddings == block[2]).all()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"ids": IDS}, "no array 'embeddings', only ids"),
        (
            {"embeddings": np.ones((6, 4)), "ids": IDS},
            "embeddings of shape (6, 4); expected [tokens, dim] with an array",
        ),
        ({"embeddings": np.ones(6), "ids": IDS}, "embeddings of shape (6,); expected"),
        (
            {"embeddings": np.ones((6, 4)), "lengths": [2, 1, 2], "ids": IDS},
            "lengths add up to 5; expected 6, one per embedding",
        ),
        ({"embeddings": np.ones((6, 4)), "lengths": [6, 1, -1], "ids": IDS}, "expected a positive integer per"),
        ({"embeddings": np.ones((6, 4)), "lengths": [2.0, 1, 3], "ids": IDS}, "expected a positive integer per"),
        ({"embeddings": np.ones((6, 4)), "lengths": [[2, 1, 3]], "ids": IDS}, "lengths of shape (1, 3)"),
        (
            {"embeddings": np.ones((6, 4)), "lengths": [6], "ids": IDS},
            "ids of shape (3,); expected one value for each of 1",
        ),
        ({"embeddings": np.ones((3, 2, 4)), "ids": IDS[:2]}, "ids of shape (2,); expected one value for each of 3"),
        (
            {"embeddings": np.ones((3, 2, 4))},
            "no column for the id among embeddings; name it with `id_column=`",
        ),
        ({"embeddings": np.ones((3, 2, 4), int), "ids": IDS}, "expected floating point"),
        ({"embeddings": np.asfortranarray(np.ones((3, 2, 4))), "ids": IDS}, "in C order"),
        ({"embeddings": np.array([[1.0, None]]), "lengths": [2], "ids": IDS}, "embeddings is a object array"),
        (
            {"embeddings": np.ones((3, 2, 4)), "ids": np.array(["a", 1, None], object)},
            "not a usable .npz file (ids is a object array",
        ),
        ({"embeddings": np.ones((0, 2, 4)), "ids": np.array([], str)}, "an empty corpus"),
    ],
)
def test_mismatched_npz_arrays_are_reported(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    assert message in refusal(write(tmp_path / "c.npz", npz_of(**arrays)), Fields(encoded=True))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("flat", [False, True])
def test_npz_is_readable_from_any_document(tmp_path: Path, compressed: bool, flat: bool) -> None:
    n = 1200
    lengths = np.random.default_rng(0).integers(1, 4, n) if flat else np.full(n, 3)
    tokens = np.arange(lengths.sum() * 8, dtype=np.float32).reshape(-1, 8)
    ids = np.array([f"d{number}" for number in range(n)])
    arrays = {"embeddings": tokens, "lengths": lengths} if flat else {"embeddings": tokens.reshape(n, 3, 8)}
    path = tmp_path / "c.npz"
    (np.savez_compressed if compressed else np.savez)(path, ids=ids, year=np.arange(n), **arrays)
    starts = np.cumsum(lengths) - lengths
    fields = Fields(encoded=True, metadata={"year": ""})
    for start in (0, 1, 511, 512, 700, n - 1, n):
        rest = scan(path, fields, Position(start, start + 1), start)
        assert [passage.id for _, passage in rest] == ids[start:].tolist()
        for number, (position, passage) in enumerate(rest, start):
            assert (position, passage.metadata["year"]) == (Position(number, number + 1), number)
            assert (passage.embeddings == tokens[starts[number] : starts[number] + lengths[number]]).all()


class CountingFile:
    """A file that counts the bytes read from it."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("rb")
        self.n_bytes = 0

    def read(self, size: int = -1) -> bytes:
        content = self.file.read(size)
        self.n_bytes += len(content)
        return content

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def fraction_read(path: Path, reader: str, start: int, stop: int, monkeypatch: pytest.MonkeyPatch) -> float:
    """Fraction of the bytes of a file read for the documents from `start` to `stop`."""
    counted = CountingFile(path)

    @contextmanager
    def open_counted(uri: str) -> Iterator[pa.NativeFile]:
        yield pa.PythonFile(counted, "r")

    monkeypatch.setattr(f"raycol.data.readers.{reader}.open_file", open_counted)
    (file,) = corpus_files(str(path))
    fields = Fields(encoded=reader == "npz")
    items = scan_corpus(file, fields, Position(start, start + 1), start, tokens=True)
    assert len(list(islice(items, stop - start))) == stop - start
    return counted.n_bytes / path.stat().st_size


def test_parquet_row_group_is_read_partially(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    records = [{"id": str(number), "text": rng.bytes(4000).hex()} for number in range(3000)]
    path = write(tmp_path / "c.parquet", parquet_of(records, row_group_size=3000, use_dictionary=False))
    assert fraction_read(path, "parquet", 0, 20, monkeypatch) < 0.5


def test_npz_is_read_partially(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.npz"
    ids = np.array([f"{number:060d}" for number in range(30_000)])
    np.savez(path, ids=ids, embeddings=np.zeros((60_000, 16), np.float32), lengths=np.full(30_000, 2, np.int32))
    for start in (1, 29_000):
        assert fraction_read(path, "npz", start, start + 600, monkeypatch) < 0.1


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<M8[ns/0]', 'fortran_order': False, 'shape': (3,), }",  # crashes NumPy
        "{'descr': '<U2147483647', 'fortran_order': False, 'shape': (3,), }",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,), }",
        "{'descr': '(9,9)f4', 'fortran_order': False, 'shape': (3,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "-" * 2000 + "3,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': " + "(" * 2000 + ")" * 2000 + ", }",
        "{'descr': '<f4', 'fortran_order': " + "not " * 900 + "True, 'shape': (3,), }",
        "{" + " " * 100_000 + "}",
    ],
)
@pytest.mark.parametrize("array", ["embeddings", "ids"])
def test_npy_header_of_other_types_is_refused_before_parsing(tmp_path: Path, header: str, array: str) -> None:
    def member(text: str) -> bytes:
        return b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text.encode() + bytes(64)

    arrays = {"embeddings": member("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 1, 4), }")}
    arrays["ids"] = member("{'descr': '<i8', 'fortran_order': False, 'shape': (3,), }")
    path = tmp_path / "c.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (arrays | {array: member(header)}).items():
            archive.writestr(f"{name}.npy", content)
    assert "not a usable .npz file (" in refusal(path, Fields(encoded=True))


@pytest.mark.parametrize("shape", [(1 << 50, 1, 4), (3, -1, 4), (-3, 2, 4), (3, 1 << 61, 4), (3, 3, 4)])
def test_npy_header_larger_than_its_data_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("embeddings.npy", header.getvalue() + bytes(3 * 2 * 4 * 4))
        ids = io.BytesIO()
        np.save(ids, np.array(IDS))
        archive.writestr("ids.npy", ids.getvalue())
    path = write(tmp_path / "c.npz", out.getvalue())
    with pytest.raises(InputError) as error:
        scan(path, Fields(encoded=True))
    assert str(path) in str(error.value)
