"""Every layout of training examples: the examples it gives, and the errors for unusable input."""

import csv
import gzip
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from raycol.data import BadRecord, Dataset, Example, ExampleSource, Passage, read_examples
from raycol.data.beir import save_beir
from raycol.data.columns import find_columns
from raycol.errors import InputError
from tests.conftest import write_jsonl

Records = list[dict[str, Any]]

KD = [
    {"query_id": "q1", "document_ids": ["a", "b", "c"], "scores": [1.5, -2.0, 0.25]},
    {"query_id": "q2", "document_ids": ["c", "a", "b"], "scores": [9.0, 8.0, 7.0]},
]
QUERIES = [{"query_id": "q1", "text": "first"}, {"query_id": "q2", "text": "second"}]
DOCUMENTS = [{"document_id": id_, "text": f"text {id_}"} for id_ in "abc"]
TEXTS = {"a": "text a", "b": "text b", "c": "text c"}


def save(path: Path, records: Records) -> Path:
    """Save records in the format of the suffix; without a suffix, as a Hugging Face dataset."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    elif path.suffix in (".csv", ".tsv"):
        out = io.StringIO()
        writer = csv.DictWriter(out, list(records[0]), delimiter="," if path.suffix == ".csv" else "\t")
        if path.suffix == ".tsv":
            writer = csv.DictWriter(out, list(records[0]), delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None)
        writer.writeheader()
        for record in records:
            lists = {name: json.dumps(value) for name, value in record.items() if isinstance(value, list)}
            writer.writerow(record | lists)
        path.write_text(out.getvalue(), newline="")
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress("".join(json.dumps(record) + "\n" for record in records).encode()))
    elif path.suffix == ".zst":
        lines = "".join(json.dumps(record) + "\n" for record in records).encode()
        path.write_bytes(pa.compress(lines, "zstd", asbytes=True))
    elif path.suffix == ".jsonl":
        write_jsonl(path, records)
    else:
        import datasets

        datasets.disable_progress_bars()
        datasets.Dataset.from_list(records).save_to_disk(path)
    return path


def write(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def read(path: Path | str, **settings: Any) -> list[Example]:
    return list(read_examples(ExampleSource(path=str(path), **settings)))


def parts(examples: list[Example]) -> list[tuple[str, tuple[str, ...], tuple[float, ...] | None]]:
    return [(example.query, example.documents, example.scores) for example in examples]


def refusal(path: Path | str, n_ways: int | None = None, **settings: Any) -> str:
    """Message of the error that reading a source raises."""
    with pytest.raises(InputError) as error:
        list(read_examples(ExampleSource(path=str(path), **settings), n_ways=n_ways))
    return str(error.value)


def last_line_refusal(tmp_path: Path, *records: Any) -> str:
    """Message of the error that reading records as JSON Lines raises at the last line."""
    path = tmp_path / "data.jsonl"
    path.write_text("".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records))
    message = refusal(path)
    assert message.startswith(f"{path}, line {len(records)}: ")
    return message


FORMATS = ["x.jsonl", "x.jsonl.gz", "x.jsonl.zst", "x.csv", "x.tsv", "x.parquet", "x"]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"query": "q", "positive": "p"}, (("p",), None)),
        ({"Anchor": "q", "POS": "p", "other": "x"}, (("p",), None)),
        ({"question": "q", "answer": "p", "id": "7"}, (("p",), None)),
        ({"sentence1": "q", "sentence2": "p", "score": 0.5}, (("p",), (0.5,))),
        ({"negative": "n", "positive": "p", "query": "q"}, (("p", "n"), None)),
        ({"query": "q", "positive": "p", "negative_10": "z", "negative_2": "y", "negative_1": "x"},
         (("p", "x", "y", "z"), None)),
        ({"query": "q", "pos": "p", "neg": "n", "neg_1": "m"}, (("p", "n", "m"), None)),
        ({"query": "q", "positive": "p", "negatives": ["x", "y"]}, (("p", "x", "y"), None)),
        ({"query": "q", "documents": ["x", "y"], "scores": [1.0, -2.5]}, (("x", "y"), (1.0, -2.5))),
        ({"query": "q", "doc_2": "y", "doc_1": "x", "label": [1, 2]}, (("x", "y"), (1.0, 2.0))),
        ({"query": "q", "positive": "p", "negative": "n", "label": 3.5}, (("p", "n"), (0.0, -3.5))),
        ({"query": "q", "positive": "p", "negatives": ["x", "y"], "labels": [1.0, -2.0]},
         (("p", "x", "y"), (0.0, -1.0, 2.0))),
        ({"query": "q", "positive": "p", "negatives": ["x", "y"], "scores": [3.0, 1.0, 2.0]},
         (("p", "x", "y"), (3.0, 1.0, 2.0))),
        ({"title": "q", "body": "p", "": "0"}, (("p",), None)),
        ({"uri_id": "7", "first": "q", "second": "p", "third": "n", "label": 1.0, "ids": "3"},
         (("p", "n"), (0.0, -1.0))),
    ],
)  # fmt: skip
def test_layouts(tmp_path: Path, name: str, record: dict[str, Any], expected: tuple) -> None:
    path = save(tmp_path / name, [record, record])
    first, second = read(path)
    assert parts([first, second]) == [("q", *expected)] * 2
    unit = "row" if name in ("x.parquet", "x") else "line"
    number = 2 if name in ("x.csv", "x.tsv") else 1
    assert (first.where, second.where) == (f"{path}, {unit} {number}", f"{path}, {unit} {number + 1}")


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(str.strip)
tuples = st.lists(st.tuples(texts, st.lists(texts, min_size=1, max_size=4)), min_size=1, max_size=5)


@given(tuples)
@example([("[1]", ['["a"]', "'"]), ("nan", ["\x00", "None", "\u2028x"])])
@pytest.mark.slow
def test_tuples_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list) -> None:
    folder = tmp_path_factory.mktemp("tuples")
    numbered = [
        {"query": query, "positive": documents[0]}
        | {f"negative_{number}": text for number, text in enumerate(documents[1:], start=1)}
        for query, documents in rows
    ]
    listed = [{"query": query, "positive": documents[0], "negatives": documents[1:]} for query, documents in rows]
    names = sorted({name for record in numbered for name in record}, reverse=True)
    even = [{name: record.get(name) for name in names} for record in numbered]
    expected = [(query, tuple(documents), None) for query, documents in rows]
    assert parts(read(write_jsonl(folder / "numbered.jsonl", numbered))) == expected
    assert parts(read(write_jsonl(folder / "listed.jsonl", listed))) == expected
    assert parts(read(save(folder / "numbered.parquet", even))) == expected
    assert parts(read(save(folder / "listed.parquet", listed))) == expected


scores = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(texts, scores), min_size=1, max_size=6), st.booleans())
def test_serialised_lists_are_parsed(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, float]], in_python: bool
) -> None:
    folder = tmp_path_factory.mktemp("lists")
    documents, numbers = [text for text, _ in pairs], [score for _, score in pairs]
    write = repr if in_python else json.dumps
    record = {"query": "q", "documents": write(documents), "scores": write(numbers)}
    assert parts(read(save(folder / "x.parquet", [record]))) == [("q", tuple(documents), tuple(numbers))]


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@given(st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["query", "a"]), inner)))
@example("[" * 100_000)
@example("['a', " * 1000)
@example("['" + "\\" * 1001 + "']")
@example('["\\ud800"]')
@example("9" * 5000)
@pytest.mark.slow
def test_any_cell_is_parsed_or_refused(tmp_path_factory: pytest.TempPathFactory, cell: Any) -> None:
    folder = tmp_path_factory.mktemp("cells")
    base = {"query": "q", "positive": "p", "negatives": ["n"], "scores": [1, 2], "query_id": "1", "document_ids": "ab"}
    records = [base | {name: cell} for name in base] + [{"query": "q", "documents": cell, "scores": cell}, {"a": cell}]
    problems: list[BadRecord] = []
    examples = []
    for number, record in enumerate(records):
        path = write_jsonl(folder / f"{number}.jsonl", [{"query": "q", "positive": "p"}, record])
        examples += read_examples(ExampleSource(path=str(path)), "skip", problems)
    assert len(examples) + len(problems) >= 2 * len(records)
    for item in examples:
        assert all(text.strip() and text.encode() for text in (item.query, *item.documents))
        assert all(map(math.isfinite, item.scores or ()))
        assert item.scores is None or len(item.scores) == len(item.documents)
        assert item.document_ids is None or len(item.document_ids) == len(item.documents)


@given(st.lists(st.text(max_size=12) | st.sampled_from(
    ["query", "positive", "negative", "negative_1", "documents", "document_1", "scores", "label", "query_id",
     "document_ids", "positive_id", "negative_id", "ANCHOR", "text", "id"]), max_size=6, unique=True))  # fmt: skip
def test_any_column_names_are_mapped_or_refused(names: list[str]) -> None:
    try:
        columns = find_columns(tuple(names))
    except ValueError:
        return
    assert {*columns.names()} <= {*names}
    assert columns.query or columns.query_id
    texts = (columns.query, columns.positive, *columns.others)
    assert not any(name.lower().endswith("id") for name in texts if name)


def test_columns_setting_maps_names(tmp_path: Path) -> None:
    record = {"_id": "1", "title": "q", "text": "p", "other": "n"}
    mapping = {"query": "title", "positive": "text", "negative": "other"}
    for name in ("x.jsonl", "x.parquet", "x.csv"):
        (item,) = read_examples(ExampleSource(path=str(save(tmp_path / name, [record])), columns=mapping))
        assert (item.query, item.documents) == ("q", ("p", "n"))
    for wrong, message in (
        ({"query": "titel", "positive": "text"}, "has no column 'titel', which 'columns' names; it has"),
        ({"query": "title", "positiv": "text"}, "no 'positive', only 'query', 'positiv'"),
        (
            {"query": "title", "positive": "text", "weight": "other"},
            "'columns' has the unknown role 'weight'; expected",
        ),
    ):
        with pytest.raises(InputError, match=message):
            list(read_examples(ExampleSource(path=str(tmp_path / "x.jsonl"), columns=wrong)))


def test_one_example_per_positive(tmp_path: Path) -> None:
    record = {"query": "q", "pos": ["p", "o"], "neg": ["n"], "pos_id": [1, 2], "neg_id": [3]}
    examples = read(save(tmp_path / "x.jsonl", [record]))
    assert [example.documents for example in examples] == [("p", "n"), ("o", "n")]
    assert [example.document_ids for example in examples] == [("1", "3"), ("2", "3")]
    message = last_line_refusal(tmp_path, record | {"scores": [1, 2, 3]})
    assert "'scores' of 2 positives" in message


def test_ids_beside_texts(tmp_path: Path) -> None:
    record = {"query_id": 7, "query": "q", "positive": "p", "positive_id": "a", "negatives": ["x", "y"]}
    (item,) = read(save(tmp_path / "x.jsonl", [record | {"negative_ids": [1, "b"]}]))
    assert (item.query_id, item.document_ids) == ("7", ("a", "1", "b"))
    (item,) = read(save(tmp_path / "x.jsonl", [record | {"query_id": None}]))
    assert (item.query_id, item.document_ids) == (None, None)
    (item,) = read(save(tmp_path / "x.parquet", [record | {"document_ids": [1, 2, 3]}]))
    assert item.document_ids == ("1", "2", "3")
    assert "2 ids for 3 documents" in last_line_refusal(tmp_path, record | {"document_ids": [1, 2]})
    assert "'query_id' is 1.5; expected an id" in last_line_refusal(tmp_path, record | {"query_id": 1.5})


def test_empty_csv_cells_are_missing_documents(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("query,positive,negative_1,negative_2\na,b,,c\nd,e,,\nf,,g,h\n")
    problems: list[BadRecord] = []
    examples = list(read_examples(ExampleSource(path=str(path)), "skip", problems))
    assert [example.documents for example in examples] == [("b", "c"), ("e",)]
    assert [str(problem) for problem in problems] == [
        f"{path}, line 4: 'positive' is None; expected a non-empty string"
    ]


def test_json_lines_may_have_different_columns(tmp_path: Path) -> None:
    records = [{"query": "a", "positive": "b"}, {"positive": "d", "anchor": "c", "negative": "e"},
               {"query": "f", "documents": ["g"], "scores": [1]}]  # fmt: skip
    examples = read(save(tmp_path / "x.jsonl", records))
    assert parts(examples) == [("a", ("b",), None), ("c", ("d", "e"), None), ("f", ("g",), (1.0,))]


def test_positional_roles_come_from_the_first_line(tmp_path: Path) -> None:
    records = [{"x": "a", "y": "b", "z": "c"}, {"z": "f", "y": "e", "x": "d"}, {"y": "h", "x": "g"}]
    examples = read(save(tmp_path / "x.jsonl", records))
    assert parts(examples) == [("a", ("b", "c"), None), ("d", ("e", "f"), None), ("g", ("h",), None)]
    assert "no 'query', only 'x', 'y', 'more'" in last_line_refusal(
        tmp_path, *records, {"x": "a", "y": "b", "more": "c"}
    )
    assert "'x' is None" in last_line_refusal(tmp_path, *records, {"y": "b"})
    assert "no 'query', only 'a', 'b'" in last_line_refusal(
        tmp_path, {"query": "q", "positive": "p"}, {"a": "x", "b": "y"}
    )


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"positive": "x"}, "no 'query', only 'positive'; expected 'query' and 'positive'"),
        ({"query": "x", "id": 3}, "no 'positive', only 'query', 'id'"),
        ({"query": "x", "negative": "y"}, "no 'positive', only 'query', 'negative'"),
        ({}, "only an empty object"),
        ({"id": "x", "_id": "y", "document_id": "z"}, "no 'query', only 'id'"),
        ({"text": "x"}, "no 'query', only 'text'"),
        ({"query": "", "positive": "x"}, "'query' is ''; expected a non-empty string"),
        ({"query": "x", "positive": "  "}, "'positive' is '  '; expected a non-empty string"),
        ({"query": ["x"], "positive": "x"}, "'query' is ['x']; expected a non-empty string"),
        ({"query": "x", "positive": 5}, "'positive' is 5; expected a text or a list of texts"),
        ({"query": "x", "positive": []}, "'positive' is []; expected a non-empty string"),
        ({"query": "x", "positive": None}, "'positive' is None; expected a non-empty string"),
        ({"query": "x", "positive": "y", "negatives": ["a", 5]}, "'negatives[1]' is 5; expected a non-empty string"),
        ({"query": "x", "positive": "y", "negatives": ["a", None]}, "'negatives[1]' is None"),
        ({"query": "x", "positive": "y", "negatives": "a, b"}, "'negatives' is the text 'a, b'; expected a list"),
        ({"query": "\ud800", "positive": "y"}, "'query' holds half of a surrogate pair"),
        ({"query": "x", "positive": "y", "query_id": "\udfff"}, "'query_id' holds half of a surrogate pair"),
        ({"query": "x", "documents": ["a"]}, "so no positive is known; add 'scores'"),
        ({"query": "x", "documents": [], "scores": []}, "no documents in 'query', 'documents', 'scores'"),
        ({"query": "x", "documents": ["a", "b"], "scores": None}, "'scores' is missing; expected a list of numbers"),
        ({"query": "x", "documents": ["a", "b"], "scores": [1]}, "has 1 scores for 2 documents; expected one each;"),
        ({"query": "x", "documents": ["a", "b"], "scores": 1}, "'scores' has 1 scores for 2 documents"),
        ({"query": "x", "documents": ["a"], "scores": [math.nan]}, "'scores[0]' is nan; expected a finite number"),
        ({"query": "x", "documents": ["a"], "scores": [-math.inf]}, "'scores[0]' is -inf; expected a finite number"),
        ({"query": "x", "documents": ["a"], "scores": [10**400]}, "expected a finite number"),
        ({"query": "x", "documents": ["a"], "scores": ["1"]}, "'scores[0]' is '1'; expected a number"),
        ({"query": "x", "documents": ["a"], "scores": [True]}, "'scores[0]' is True; expected a number"),
        ({"query": "x", "documents": ["a"], "scores": [[1]]}, "'scores[0]' is [1]; expected a number"),
        ({"query": "x", "documents": ["a"], "scores": "[1, x]"}, "'scores' is the text '[1, x]'; expected a list"),
        ({"query": "x", "documents": ["a"], "scores": "[1 2]"}, "'scores' is the text '[1 2]'; expected a list"),
        ({"query": "x", "documents": ["a"], "scores": "__import__('os')"}, "is the text"),
        ({"query": "x", "documents": ["a"], "scores": "[nan]"}, "'scores[0]' is nan; expected a finite number"),
        ({"query": "x", "documents": ["a"], "scores": {"a": 1}}, "'scores' is {'a': 1}; expected a number"),
        ({"query": "x", "positive": "y", "label": "entailment"}, "'label' is the text 'entailment'"),
        ({"query": "x", "positive": "y", "negatives": ["a", "b"], "label": [1]}, "or 2 margins of the first"),
        ({"query": "x", "positive": "y", "documents": ["a"], "scores": [1]}, "both 'documents' and 'positive'; keep"),
        ({"question": "x", "answer": "y", "context": "z"}, "'answer' and 'context' may both be the positive"),
        ({"anchor": "x", "question": "y", "positive": "z"}, "'anchor' and 'question' may both be the query"),
        ({"query": "x", "positive": "y", "score": 1, "label": 2}, "'score' and 'label' may both be the scores"),
        ('{"query": "x"', "not JSON"),
        ("[1]", "a JSON array of 1; expected a query, a positive and negatives"),
        ("7", "not a JSON object but a int"),
    ],
)  # fmt: skip
def test_unusable_record_is_reported(tmp_path: Path, record: dict[str, Any] | str, message: str) -> None:
    error = last_line_refusal(tmp_path, {"query": "a", "positive": "b"}, record)
    assert message in error
    assert "`on_error='skip'`" in error
    problems: list[BadRecord] = []
    (kept,) = read_examples(ExampleSource(path=str(tmp_path / "data.jsonl")), "skip", problems)
    assert kept.query == "a"
    assert [problem.where for problem in problems] == [f"{tmp_path}/data.jsonl, line 2"]


def test_positional_columns_must_be_texts(tmp_path: Path) -> None:
    expected = "'b' is 7, which is not a text, and no column name is known; expected 'query' and 'positive'"
    assert expected in last_line_refusal(tmp_path, {"a": "x", "b": 7})
    assert expected in refusal(save(tmp_path / "x.parquet", [{"a": "x", "b": 7}]))
    assert "'b' is ['x'], which is not a text" in last_line_refusal(tmp_path, {"a": "x", "b": ["x"]})


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.parquet", "x"])
def test_missing_column_error_lists_the_columns(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, [{"positive": "a", "lang": "en"}])
    problems: list[BadRecord] = []
    with pytest.raises(InputError) as error:
        list(read_examples(ExampleSource(path=str(path)), "skip", problems))
    assert str(error.value).startswith(f"{path}: no 'query', only 'positive', 'lang'; expected 'query' and 'positive'")
    assert not problems


# Without names


@pytest.mark.parametrize("separator", [",", "\t"])
def test_first_line_of_data_is_not_a_header(
    tmp_path: Path, separator: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / ("triples.csv" if separator == "," else "triples.tsv")
    path.write_text(separator.join(["what is it", "it is that", "it is not"]) + "\n" + separator.join("abc") + "\n")
    assert parts(read(path)) == [("what is it", ("it is that", "it is not"), None), ("a", ("b", "c"), None)]
    assert capsys.readouterr().err == (
        f"{path}: no header, the first line is data; column 1 is 'query', column 2 is 'positive', column 3 is "
        "'negative_1'\n"
    )
    path.write_text(separator.join(["question", "What is asked?"]) + "\n" + separator.join(["a", "b"]) + "\n")
    assert parts(read(path)) == [("question", ("What is asked?",), None), ("a", ("b",), None)]
    path.write_text(separator.join(["what is it", "that", "0.75"]) + "\n")
    assert parts(read(path)) == [("what is it", ("that",), (0.75,))]
    assert "a single column of no known name ('what is it')" in refusal(write(path, "what is it\n"))


def test_positional_roles_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("x.jsonl", "x.tsv", "x.parquet"):
        path = save(tmp_path / name, [{"title": "a", "body": "b", "more": "c", "label": [1, 2]}] * 2)
        read(path)
        assert capsys.readouterr().err.replace("\n", " ").count(
            f"{path}: no known column name; by position, 'title' is the query, 'body' is the positive, "
            "'more' further documents, 'label' is the scores"
        ) == 1  # fmt: skip
        read(save(path, [{"query": "a", "positive": "b"}]))
        assert not capsys.readouterr().err


@pytest.mark.parametrize("ids", [["10", "11", "1", "2", "3"], ["q1", "q2", "a", "b", "c"]])
@pytest.mark.parametrize("beside", [True, False])
def test_headerless_id_triples_are_resolved(tmp_path: Path, ids: list[str], beside: bool) -> None:
    q1, q2, a, b, c = ids
    queries = write(tmp_path / ("queries.tsv" if beside else "q.tsv"), f"{q1}\tfirst\n{q2}\tsecond\n")
    documents = write(tmp_path / ("corpus.tsv" if beside else "c.tsv"), f"{a}\ttext a\n{b}\ttext b\n{c}\ttext c\n")
    settings = {} if beside else {"queries": str(queries), "documents": str(documents)}
    expected = [("first", ("text a", "text c"), None), ("second", ("text b", "text a"), None)]
    triples = [(q1, a, c), (q2, b, a)]
    for separator, name in (("\t", "triples.tsv"), (",", "triples.csv")):
        path = write(tmp_path / name, "".join(separator.join(triple) + "\n" for triple in triples))
        assert parts(read(path, **settings)) == expected
    lines = [[int(id_) if id_.isdigit() else id_ for id_ in triple] for triple in triples]
    path = write(tmp_path / "triples.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    assert parts(read(path, **settings)) == expected
    assert parts(read(write(tmp_path / "triples.json", json.dumps(lines)), **settings)) == expected
    (item,) = read(write(path, json.dumps([q1, [a, 2.5], [b, 0.5]])), **settings)
    assert (item.query, item.documents, item.scores) == ("first", ("text a", "text b"), (2.5, 0.5))
    assert not item.positive_first


def test_headerless_ids_are_never_texts(tmp_path: Path) -> None:
    path = write(tmp_path / "triples.tsv", "10\t0\t3\n11\t1\t4\n")
    assert "has ids instead of queries, and no 'queries' next to it" in refusal(path)
    write(path, "a\tb\tc\n10\t0\t3\n")
    assert "the columns 'a', 'b', 'c' hold integers, but no name is known" in refusal(path)
    numbers = [{"a": "10", "b": "0"}]
    for name in ("x.jsonl", "x.parquet"):
        with pytest.raises(InputError, match="holds integers"):
            read(save(tmp_path / name, numbers))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("1 0 1\n2 1 1\n", "looks like judgements or a ranking"),
        ("1 4 0\n2 5 2\n3 5 0\n", "looks like judgements or a ranking"),
        ("1 0 7 1\n", "looks like judgements or a ranking"),
        ("q1 Q0 d7 2\n", "looks like judgements or a ranking"),
        ("1 7 1\n1 9 2\n1 4 3\n2 8 1\n", "looks like judgements or a ranking"),
        ("1 7 12.5\n1 9 11.25\n", "looks like judgements or a ranking"),
        ("12.5 8.25 1 7 9\n", "column 1 holds fractions of unknown meaning; add a header"),
    ],
)
def test_judgements_are_refused_as_triples(tmp_path: Path, rows: str, message: str) -> None:
    path = write(tmp_path / "qrels.tsv", rows.replace(" ", "\t"))
    assert message in refusal(path)


def test_id_triples_with_margin(tmp_path: Path) -> None:
    write(tmp_path / "queries.tsv", "10\tfirst\n")
    write(tmp_path / "documents.tsv", "1\ttext a\n2\ttext b\n")
    path = write(tmp_path / "train.tsv", "10\t1\t2\t3.5\n")
    assert parts(read(path)) == [("first", ("text a", "text b"), (0.0, -3.5))]


def test_unused_queries_or_documents_setting_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "x.jsonl", [{"query": "a", "positive": "b"}])
    queries = save(tmp_path / "q.csv", QUERIES)
    assert "so the setting 'queries' has no effect; leave it out" in refusal(path, queries=str(queries))
    assert "so the setting 'documents' has no effect" in refusal(path, documents=str(queries))


# Layouts of other projects


def test_dpr_and_tevatron_passages_with_titles(tmp_path: Path) -> None:
    dpr = {"question": "q", "answers": ["x"], "positive_ctxs": [{"title": "T", "text": "p"}, {"text": "s"}],
           "negative_ctxs": [{"title": "N", "text": "m"}],
           "hard_negative_ctxs": [{"title": "H", "text": "n"}]}  # fmt: skip
    expected = [("q", ("T p", "H n", "N m"), None), ("q", ("s", "H n", "N m"), None)]
    for content in (json.dumps([dpr], indent=4), json.dumps(dpr)):
        assert parts(read(write(tmp_path / "dpr.json", content))) == expected
    tevatron = {"query_id": "1", "query": "q", "positive_passages": [{"docid": "7", "title": "T", "text": "p"}],
                "negative_passages": [{"docid": "8", "title": "", "text": "n"}]}  # fmt: skip
    for name in ("x.jsonl", "x.parquet"):
        assert parts(read(save(tmp_path / name, [tevatron]))) == [("q", ("T p", "n"), None)]


def test_tevatron_id_columns_are_resolved(tmp_path: Path) -> None:
    lay_out(tmp_path, "lines")
    record = {"query_id": "q1", "positive_document_ids": ["a"], "negative_document_ids": ["b", "c"]}
    assert parts(read(save(tmp_path / "t.jsonl", [record]))) == [("first", ("text a", "text b", "text c"), None)]


def test_labeled_list_is_one_example_per_positive(tmp_path: Path) -> None:
    record = {"query": "q", "answer": ["a", "b", "c"], "labels": [1, 0, 1]}
    for name in ("x.jsonl", "x.parquet"):
        assert parts(read(save(tmp_path / name, [record]))) == [("q", ("a", "b"), None), ("q", ("c", "b"), None)]
    assert "'labels' has no 1; expected a positive" in last_line_refusal(tmp_path, record | {"labels": [0, 0, 0]})


def test_nan_is_a_missing_value(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", '{"query": "q", "positive": "p", "negative": NaN}')
    assert parts(read(path)) == [("q", ("p",), None)]


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv"])
def test_source_without_examples_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("")
    assert refusal(path) == f"{path}: no training examples in it; expected at least one"
    path.write_text("query,positive\n" if name == "x.csv" else "\n")
    assert refusal(path) == f"{path}: no training examples in it; expected at least one"
    (tmp_path / "x.jsonl").write_text('{"query": ""}\n')
    with pytest.raises(InputError, match=r"every record was skipped, the first was .*line 1: no 'positive'"):
        list(read_examples(ExampleSource(path=str(tmp_path / "x.jsonl")), "skip"))
    pq.write_table(pa.table({"query": pa.array([], pa.string()), "positive": pa.array([], pa.string())}), path)
    path = path.rename(tmp_path / "x.parquet")
    assert "no training examples in it" in refusal(path)


def test_npz_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", ids=np.array(["a"]), lengths=np.array([1]), embeddings=np.ones((1, 2)))
    assert "holds arrays; expected training examples" in refusal(tmp_path / "x.npz")


def test_arrow_column_types(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    columns = {
        "query": pa.array(["q", "r"]).dictionary_encode(),
        "documents": pa.array([["a", "b"], ["c", "d"]], pa.large_list(pa.large_string())),
        "scores": pa.array([[1, 2], [3, 4]], pa.list_(pa.float16(), 2)),
        "unread": pa.array([b"\xff", b""]),
    }
    pq.write_table(pa.table(columns), path)
    assert parts(read(path)) == [("q", ("a", "b"), (1.0, 2.0)), ("r", ("c", "d"), (3.0, 4.0))]
    broken = [[1, None], None]
    pq.write_table(pa.table(columns | {"scores": pa.array(broken, pa.list_(pa.float32()))}), path)
    problems: list[BadRecord] = []
    with pytest.raises(InputError, match="every record was skipped"):
        list(read_examples(ExampleSource(path=str(path)), "skip", problems))
    assert [problem.what for problem in problems] == [
        "'scores[1]' is nan; expected a finite number",
        "'scores' is missing; expected a list of numbers, one for each document",
    ]


def test_folder_is_read_in_name_order(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        save(tmp_path / f"{name}.jsonl", [{"query": name, "positive": "p"}])
    assert [item.query for item in read(tmp_path)] == ["a", "b", "c"]
    assert [item.query for item in read(tmp_path / "[ac].jsonl")] == ["a", "c"]
    assert [item.query for item in read(f"file://{tmp_path}")] == ["a", "b", "c"]
    assert "only Hugging Face datasets have subsets and splits" in refusal(tmp_path, split="train")
    assert "no such file or folder" in refusal(tmp_path / "gone")


def lay_out(folder: Path, layout: str) -> Path:
    """Save PyLate's data in a folder, in one of the common layouts; return the path of the source."""
    folder.mkdir(exist_ok=True)
    if layout == "parquet shards":
        save(folder / "train-00000-of-00002.parquet", KD[:1])
        save(folder / "train-00001-of-00002.parquet", KD[1:])
        save(folder / "queries.parquet", QUERIES)
        save(folder / "documents-00000-of-00001.parquet", DOCUMENTS)
        return folder
    if layout == "folders":
        for name, records in (("train", KD), ("queries", QUERIES), ("documents", DOCUMENTS)):
            (folder / name).mkdir()
            save(folder / name / "train-00000-of-00001.parquet", records)
        return folder
    if layout == "saved datasets":
        for name, records in (("train", KD), ("queries", QUERIES), ("documents", DOCUMENTS)):
            save(folder / name, records)
        return folder
    if layout == "a folder beside folders":
        lay_out(folder, "folders")
        return folder / "train"
    if layout == "a glob":
        lay_out(folder, "lines")
        return folder / "tra*.jsonl.gz"
    if layout == "a file beside BEIR's":
        save(folder / "scored.jsonl", KD)
        save(folder / "queries.jsonl", [{"_id": query["query_id"], "text": query["text"]} for query in QUERIES])
        save(folder / "corpus.jsonl", [{"_id": id_, "title": "text", "text": id_} for id_ in "abc"])
        (folder / "qrels").mkdir()
        return folder / "scored.jsonl"
    if layout == "ids in text":
        save(folder / "train.parquet", [
            {"query_id": row["query_id"], "document_ids": repr(row["document_ids"]), "scores": repr(row["scores"])}
            for row in KD
        ])  # fmt: skip
        save(folder / "queries.tsv", [{"qid": query["query_id"], "query": query["text"]} for query in QUERIES])
        (folder / "documents.tsv").write_text("".join(f"{id_}\t{text}\n" for id_, text in TEXTS.items()))
        return folder
    save(folder / "train.jsonl.gz", KD)
    save(folder / "queries.csv", QUERIES)
    save(folder / "documents.jsonl.zst", DOCUMENTS)
    return folder


LAYOUTS = ["lines", "parquet shards", "folders", "saved datasets", "a folder beside folders", "a glob",
           "a file beside BEIR's", "ids in text"]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_distillation_ids_are_resolved(tmp_path: Path, layout: str) -> None:
    path = lay_out(tmp_path / "kd", layout)
    examples = read(path)
    assert parts(examples) == [
        ("first", ("text a", "text b", "text c"), (1.5, -2.0, 0.25)),
        ("second", ("text c", "text a", "text b"), (9.0, 8.0, 7.0)),
    ]
    assert [(item.query_id, item.document_ids) for item in examples] == [("q1", (*"abc",)), ("q2", (*"cab",))]
    cut = list(read_examples(ExampleSource(path=str(path)), n_ways=2))
    assert parts(cut) == [("first", ("text a", "text b"), (1.5, -2.0)), ("second", ("text c", "text a"), (9.0, 8.0))]
    assert [item.document_ids for item in cut] == [("a", "b"), ("c", "a")]
    assert [item.documents_left_out for item in cut] == [1, 1]
    assert parts(list(read_examples(ExampleSource(path=str(path)), n_ways=4))) == parts(examples)


def test_n_ways_keeps_the_highest_scored_document(tmp_path: Path) -> None:
    lines = [{"query": "q", "documents": ["a", "b", "c"], "scores": [1, 2, 9]}]
    (item,) = read_examples(ExampleSource(path=str(save(tmp_path / "a.jsonl", lines))), n_ways=2)
    assert (item.documents, item.scores) == (("a", "c"), (1, 9))


def test_source_sets_queries_and_documents(tmp_path: Path) -> None:
    path = save(tmp_path / "kd.jsonl", KD)
    assert refusal(path) == (
        f"{path}: has ids instead of queries, and no 'queries' next to it with their texts; add such a file, folder "
        "or subset, or set 'queries' of this source to its location"
    )
    queries, documents = save(tmp_path / "q.csv", QUERIES), save(tmp_path / "d.parquet", DOCUMENTS)
    message = refusal(path, queries=queries)
    assert "has ids instead of documents, and no 'documents' or 'corpus' next to it" in message
    assert len(read(path, queries=queries, documents=documents)) == 2


def test_texts_and_ids_in_one_file(tmp_path: Path) -> None:
    lay_out(tmp_path, "lines")
    records = [{"query": "own", "positive_id": "b", "negative_ids": ["a", "c"], "score": [1, 2]},
               {"query_id": "q2", "positive": "own"},
               {"query_id": "q1", "positive_id": "a", "negative_id": "b", "negative_id_2": "c"}]  # fmt: skip
    examples = read(save(tmp_path / "mixed.jsonl", records))
    assert parts(examples) == [
        ("own", ("text b", "text a", "text c"), (0.0, -1.0, -2.0)),
        ("second", ("own",), None),
        ("first", ("text a", "text b", "text c"), None),
    ]


def test_unknown_id_is_reported(tmp_path: Path) -> None:
    lay_out(tmp_path, "lines")
    path = save(
        tmp_path / "train.jsonl.gz", [*KD, KD[0] | {"query_id": "q3"}, KD[0] | {"document_ids": ["a", "z", "y"]}]
    )
    problems: list[BadRecord] = []
    assert len(list(read_examples(ExampleSource(path=str(tmp_path)), "skip", problems))) == 2
    assert [str(problem) for problem in problems] == [
        f"{path}, line 3: the query id 'q3' is not in {tmp_path}/queries.csv",
        f"{path}, line 4: the document id 'z' is not in {tmp_path}/documents.jsonl.zst",
    ]
    assert "line 3: the query id 'q3' is not in" in refusal(tmp_path)
    # Documents dropped by `n_ways` are not looked up.
    assert len(list(read_examples(ExampleSource(path=str(tmp_path)), "skip", n_ways=1))) == 3


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (
            [{"document_id": "a"}],
            "line 1: none of 'document', 'passage', 'text', 'content', 'contents', 'body', 'segment', only",
        ),
        ([{"text": "a"}], "line 1: none of 'pid', 'passage_id', 'document_id', "),
        ([*DOCUMENTS, {"document_id": "d", "text": " "}], "line 4: document 'd' has no text"),
        ([*DOCUMENTS, {"document_id": "d", "text": None}], "line 4: document 'd' has no text"),
        ([*DOCUMENTS, {"document_id": "d", "text": 5}], "line 4: 'text' of 'd' is a int; expected a string"),
        ([*DOCUMENTS, {"document_id": "d", "text": "\ud800"}], "'text' of 'd' holds half of a surrogate pair"),
        ([*DOCUMENTS, {"document_id": "", "text": "x"}], "line 4: 'document_id' is ''; expected an id"),
        ([*DOCUMENTS, DOCUMENTS[1]], "line 4: duplicate id 'b', first on"),
        ([], "empty; expected at least one document with an id and a text"),
    ],
)
def test_unusable_documents_file_is_reported(tmp_path: Path, records: Records, message: str) -> None:
    lay_out(tmp_path, "lines")
    path = write_jsonl(tmp_path / "d.jsonl", records)
    error = refusal(tmp_path, documents=path)
    assert error.startswith(str(path))
    assert message in error
    if len(records) > 1:
        problems: list[BadRecord] = []
        source = ExampleSource(path=str(tmp_path), documents=str(path))
        assert len(list(read_examples(source, "skip", problems))) == 2
        assert [problem.where for problem in problems] == [f"{path}, line 4"]


def test_documents_file_without_id_column_is_reported(tmp_path: Path) -> None:
    lay_out(tmp_path, "lines")
    path = save(tmp_path / "d.parquet", [{"name": "a", "text": "x"}])
    assert f"{path}: none of 'pid', 'passage_id', " in refusal(tmp_path, documents=path)


def test_split_of_a_folder(tmp_path: Path) -> None:
    lay_out(tmp_path, "lines")
    save(tmp_path / "dev.jsonl", KD[1:])
    assert [item.query for item in read(tmp_path, split="dev")] == ["second"]
    assert "no 'test' next to the queries and documents, only 'dev', 'train'" in refusal(tmp_path, split="test")
    (tmp_path / "train.jsonl.gz").unlink()
    assert [item.query for item in read(tmp_path)] == ["second"]
    save(tmp_path / "other.jsonl", KD)
    assert "no 'train' next to the queries and documents, only 'dev', 'other'" in refusal(tmp_path)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), texts, min_size=1, max_size=30))
def test_any_id_is_resolved(tmp_path_factory: pytest.TempPathFactory, documents: dict[str, str]) -> None:
    folder = tmp_path_factory.mktemp("lookup")
    save(folder / "documents.parquet", [{"document_id": id_, "text": text} for id_, text in documents.items()])
    record = {"query": "q", "document_ids": [*documents], "scores": [0] * len(documents)}
    (item,) = read(save(folder / "train.parquet", [record]))
    assert item.documents == tuple(documents.values())


def test_text_store_with_many_texts(tmp_path: Path) -> None:
    documents = [{"_id": number, "text": f"text {number}" + "x" * (number % 50)} for number in range(10_000)]
    save(tmp_path / "corpus.parquet", documents)
    ids = [9_999, 0, 4_095, 4_096, 8_191, 8_192]
    path = save(tmp_path / "x.jsonl", [{"query": "q", "document_ids": ids, "scores": ids}])
    expected = tuple(documents[id_]["text"] for id_ in ids)
    assert read(path)[0].documents == expected
    save(tmp_path / "corpus.parquet", documents[:300])
    path = save(tmp_path / "x.jsonl", [{"query": "q", "document_ids": [*range(300)], "scores": [*range(300)]}])
    assert read(path)[0].documents == tuple(document["text"] for document in documents[:300])
    save(tmp_path / "corpus.parquet", [*documents[:300], documents[7]])
    assert "row 301: duplicate id '7', first on" in refusal(path)


BEIR = Dataset(
    [Passage("d1", "", "one"), Passage("d2", "Two", "two")],
    {"q1": "first", "q2": "second"},
    {"q1": {"d1": 1}, "q2": {"d2": 2, "d1": 0}},
)


def test_judgements_above_zero_become_pairs(tmp_path: Path) -> None:
    save_beir(tmp_path, BEIR, "train")
    save_beir(tmp_path, Dataset(BEIR.passages, BEIR.queries, {"q1": {"d2": 1}}), "dev")
    qrels = f"{tmp_path}/qrels/train.tsv"
    assert read(tmp_path) == [
        Example(f"{qrels}, 'q1' and 'd1'", "first", ("one",), None, "q1", ("d1",)),
        Example(f"{qrels}, 'q2' and 'd2'", "second", ("Two two",), None, "q2", ("d2",)),
    ]
    assert [item.documents for item in read(tmp_path, split="dev")] == [("Two two",)]
    assert "existing splits: dev, train" in refusal(tmp_path, split="test")
    assert "has no subsets" in refusal(tmp_path, subset="x")
    assert [item.documents for item in read(f"file://{tmp_path}")] == [("one",), ("Two two",)]


def test_pair_with_a_skipped_document_is_skipped(tmp_path: Path) -> None:
    save_beir(tmp_path, BEIR, "train")
    path = tmp_path / "corpus.jsonl"
    path.write_text(path.read_text().replace('"one"', '" "'))
    assert "corpus.jsonl, line 1: document 'd1' has no text" in refusal(tmp_path)
    problems: list[BadRecord] = []
    examples = list(read_examples(ExampleSource(path=str(tmp_path)), "skip", problems))
    assert [example.query for example in examples] == ["second"]
    assert [problem.what for problem in problems] == [
        "document 'd1' has no text", f"the document id 'd1' is not in {path}"
    ]  # fmt: skip


def test_beir_folder_without_judgements_is_refused(tmp_path: Path) -> None:
    save_beir(tmp_path, BEIR, "train")
    (tmp_path / "qrels" / "train.tsv").unlink()
    assert "holds no .tsv file" in refusal(tmp_path)
    (tmp_path / "qrels").rmdir()
    assert "qrels/train.tsv: no such file" in refusal(tmp_path)


@pytest.mark.usefixtures("hub_cache")
def test_hub_subsets(tmp_path: Path) -> None:
    for name, records in (("train", KD), ("queries", QUERIES), ("documents", DOCUMENTS)):
        save(tmp_path / f"{name}.parquet", records)
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}.parquet\n"
        for name in ("queries", "documents", "train")
    )
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    examples = read(f"hf:{tmp_path}")
    assert [example.documents for example in examples] == [
        ("text a", "text b", "text c"),
        ("text c", "text a", "text b"),
    ]
    assert parts(read(f"hf:{tmp_path}", subset="train", split="train")) == parts(examples)
    assert examples[0].where == f"hf:{tmp_path}, row 1"
    assert "no split 'dev'; choose one of train" in refusal(f"hf:{tmp_path}", split="dev")
    assert "cannot be opened" in refusal("hf:nobody/nothing")
    assert "no 'positive', only 'query_id', 'text'" in refusal(f"hf:{tmp_path}", subset="queries")


def test_source_from_a_bare_path() -> None:
    assert (
        ExampleSource.model_validate("a.jsonl")
        == ExampleSource(path="a.jsonl")
        == ExampleSource.model_validate(Path("a.jsonl"))
    )
    for wrong in ({"path": "a", "weight": 0}, {"path": "a", "weight": math.inf}, {"path": "a", "wieght": 1}, {}):
        with pytest.raises(ValidationError):
            ExampleSource.model_validate(wrong)


def test_columns_setting_is_refused_for_a_beir_folder(tmp_path: Path) -> None:
    save_beir(tmp_path, BEIR, "train")
    assert "a BEIR folder has fixed columns; leave 'columns' out" in refusal(tmp_path, columns={"query": "title"})
