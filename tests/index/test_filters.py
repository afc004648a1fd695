"""Filters against SQLite, rejected expressions, and sets of ids."""

import datetime
import sqlite3
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycol.errors import InputError
from raycol.index import Document, Index
from raycol.index.format.columns import metadata_table
from raycol.index.search.filters import parse_filter

COLUMNS = {"lang": "string", "year": "int64", "score": "double", "draft": "bool", "day": "date"}
UTC = datetime.UTC

LANGS = ["en", "de", "fr", "e_", "%", "EN"]
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "lang": st.none() | st.sampled_from(LANGS),
            "year": st.none() | st.integers(-3, 3),
            "score": st.none() | st.sampled_from([-1.5, 0.0, 0.5, 2.0]),
            "draft": st.none() | st.booleans(),
            "day": st.none() | st.sampled_from(["2020-01-01", "2021-06-30"]).map(datetime.date.fromisoformat),
        }
    ),
    min_size=1,
    max_size=12,
)


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


COMPARISON = st.sampled_from(["=", "<>", "!=", "<", "<=", ">", ">="])
STRING = st.sampled_from(LANGS).map(quoted)
NUMBER = st.sampled_from(["-2", "0", "1", "0.5", "-1.5", "3"])
DAY = st.sampled_from(["'2020-01-01'", "'2020-12-31'"])
ATOMS = st.one_of(
    st.builds("lang {} {}".format, COMPARISON, STRING),
    st.builds("{} {} year".format, NUMBER, COMPARISON),
    st.builds("score {} {}".format, COMPARISON, NUMBER),
    st.builds("day {} {}".format, COMPARISON, DAY),
    st.builds("year BETWEEN {} AND {}".format, NUMBER, NUMBER),
    st.builds("year NOT BETWEEN {} AND {}".format, NUMBER, NUMBER),
    st.builds("lang IN ({}, {})".format, STRING, STRING),
    st.builds("year not in ({}, {})".format, NUMBER, NUMBER),
    st.builds("lang LIKE {}".format, st.sampled_from(["'e%'", "'_n'", "'%'", "'e'", "'d_'"])),
    st.builds("NOT lang LIKE {}".format, st.sampled_from(["'e%'", "'%n'"])),
    st.builds("lang NOT LIKE {}".format, st.sampled_from(["'e%'", "'%n'"])),
    st.builds("{} IS NULL".format, st.sampled_from(sorted(COLUMNS))),
    st.builds("{} IS NOT NULL".format, st.sampled_from(sorted(COLUMNS))),
    st.sampled_from(["draft", "draft = TRUE", "draft <> false", "TRUE", "FALSE"]),
)
CONDITIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.builds("({}) AND ({})".format, inner, inner),
        st.builds("{} OR {}".format, inner, inner),
        st.builds("NOT ({})".format, inner),
    ),
    max_leaves=6,
)


@given(rows=ROWS, condition=CONDITIONS)
def test_filters_match_the_same_rows_as_sqlite(rows: list[dict], condition: str) -> None:
    table = metadata_table(rows, COLUMNS).append_column("row", [list(range(len(rows)))])
    matches = table.filter(parse_filter(condition, COLUMNS).expression).column("row").to_pylist()
    database = sqlite3.connect(":memory:")
    database.execute("PRAGMA case_sensitive_like = ON")
    database.execute("CREATE TABLE t (row, lang TEXT, year INTEGER, score REAL, draft BOOLEAN, day TEXT)")
    for number, row in enumerate(rows):
        day = row["day"] and row["day"].isoformat()
        values = (number, row["lang"], row["year"], row["score"], row["draft"], day)
        database.execute("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?)", values)
    expected = [number for (number,) in database.execute(f"SELECT row FROM t WHERE {condition} ORDER BY row")]
    database.close()
    assert matches == expected


REFUSED = [
    "",
    "   ",
    "lang",
    "lang =",
    "lang = 'en' lang",
    "lang = 'en'; DROP TABLE x",
    "lang = 'en' UNION SELECT 1",
    "SELECT 1",
    "(SELECT 1)",
    "lang IN (SELECT lang FROM t)",
    "lang = (SELECT 'en')",
    "EXISTS (SELECT 1)",
    "lower(lang) = 'en'",
    "read_file('/etc/passwd')",
    "lang || 'x' = 'enx'",
    "year + 1 = 3",
    "year = score",
    "1 = 1",
    "'a' = 'a'",
    "lang = 5",
    "year = 'five'",
    "year LIKE 'x%'",
    "lang LIKE 5",
    "draft = 1",
    "day > 'yesterday'",
    "day > 5",
    "nobody = 1",
    "t.lang = 'en'",
    "id = 'd1'",
    "lang = NULL",
    "lang IN ()",
    "lang IN ('en', NULL)",
    "year = 99999999999999999999",
    "year = 1e999999999999",
    "year BETWEEN 1 AND lang",
    "CASE WHEN draft THEN TRUE ELSE FALSE END",
    "lang LIKE 'a!%' ESCAPE '!'",
    "lang ~ 'e.*'",
    "CAST(year AS TEXT) = '1'",
    "lang = $1",
    "lang = ?",
    "lang = :name",
    "lang IS TRUE",
    "* = 1",
    "year BETWEEN SYMMETRIC 3 AND 1",
    "lang LIKE ANY ('x', 'y')",
    "lang = DATE '2020-01-01'",
    "@lang = 'x'",
    "{{ lang }}",
    "lang = 'unterminated",
    "lang = 'en' LIMIT 1",
    "year = 1 WINDOW",
    "\x00",
]


@pytest.mark.parametrize("text", REFUSED)
def test_other_expressions_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="filter"):
        parse_filter(text, COLUMNS)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 5000 + "draft" + ")" * 4999,
        "(" * 4000 + "draft" + ")" * 4000,
        "NOT " * 2400 + "draft",
        "-" * 9000 + "1 = year",
        "draft" + " AND draft" * 990,
        "draft" + " OR draft AND draft" * 500,
        "year IN (" + ",".join(["1"] * 4000) + ")",
        "x" * 10_001,
        "year = " + "9" * 9000,
        "[" * 4000,
        "{" * 4000,
        "CASE " * 1500,
    ],
    ids=lambda text: text[:12],
)
@pytest.mark.timeout(60)
def test_long_or_deep_filters_do_not_crash_or_hang(text: str) -> None:
    with suppress(InputError):
        parse_filter(text, COLUMNS)


def test_errors_name_the_expression_and_what_is_expected() -> None:
    with pytest.raises(InputError, match="expected a literal of type int64, the type of year"):
        parse_filter("year = 'five'", COLUMNS)
    with pytest.raises(InputError, match="no column 'yaer'; the columns are lang, year, score, draft, day"):
        parse_filter("yaer = 5", COLUMNS)
    with pytest.raises(InputError, match="no column 'x'; this index has none"):
        parse_filter("x = 5", {})


@pytest.fixture
def index(tmp_path: Path) -> Index:
    rng = np.random.default_rng(0)
    documents = [
        Document(
            f"d{n}",
            rng.standard_normal((3, 16)).astype(np.float32),
            {
                "lang": "en" if n % 2 else None,
                "year": n,
                "at": datetime.datetime(2020, 1, 1, n % 24, tzinfo=UTC),
                "day": datetime.date(2020, 1, 1 + n % 28),
                "price": n / 2 if n else 1,
            },
        )
        for n in range(60)
    ]
    return Index.create(tmp_path / "i", documents, partition_tokens=50)


QUERY = np.eye(4, 16, dtype=np.float32)


def found_ids(index: Index, **restrictions) -> set[str]:
    approximate = index.search([QUERY], k=100, **restrictions)[0]
    assert approximate == index.exact([QUERY], k=100, **restrictions)[0]
    return {hit.id for hit in approximate}


def test_filters_restrict_searches(index: Index) -> None:
    assert found_ids(index, filter="lang = 'en' AND year >= 50") == {f"d{n}" for n in range(51, 60, 2)}
    assert found_ids(index, filter="lang IS NULL and year < 3") == {"d0", "d2"}
    assert found_ids(index, filter="at >= '2020-01-01T23:00:00Z'") == {"d23", "d47"}
    assert found_ids(index, filter="at >= '2020-01-01T23:00:00'") == {"d23", "d47"}
    assert found_ids(index, filter="day = DATE '2020-01-28'") == {"d27", "d55"}
    assert found_ids(index, filter="price BETWEEN 1 AND 1.5") == {"d0", "d2", "d3"}
    assert found_ids(index, filter="FALSE") == set()
    assert found_ids(index, filter="year = 7", ids=["d7", "d8"]) == {"d7"}
    assert index.manifest.columns == {
        "lang": "string", "year": "int64", "at": "timestamp", "day": "date", "price": "double",
    }  # fmt: skip
    assert index.metadata(["d0"])[0]["price"] == 1.0


def test_a_selective_filter_still_returns_k_hits(index: Index) -> None:
    hits = index.search([QUERY], k=3, filter="year IN (1, 2, 3, 4)", n_rescore=3)[0]
    assert len(hits) == 3
    assert {hit.id for hit in hits} <= {"d1", "d2", "d3", "d4"}


def test_filters_skip_deleted_documents_and_see_new_metadata(index: Index) -> None:
    index.delete(["d7"])
    index.upsert([Document("d8", QUERY, {"year": 1000})])
    assert found_ids(index, filter="year IN (7, 8, 9)") == {"d9"}
    assert found_ids(index, filter="year = 1000") == {"d8"}
    index.compact(10_000)
    assert found_ids(index, filter="year IN (7, 8, 9, 1000)") == {"d8", "d9"}


def test_ids_restrict_searches(index: Index) -> None:
    assert found_ids(index, ids=["d1", "d1", "nobody", "d59"]) == {"d1", "d59"}
    assert [hit.id for hit in index.search([QUERY], ids=iter(["d3"]))[0]] == ["d3"]
    assert found_ids(index, ids=[]) == set()
    with pytest.raises(InputError, match="'nobody' is not in the index"):
        index.search([QUERY], ids=["d1", "nobody"], on_unknown="refuse")
    with pytest.raises(InputError, match="expected a list of ids"):
        index.search([QUERY], ids="d1")
    with pytest.raises(InputError, match="document id 5: expected a non-empty string"):
        index.search([QUERY], ids=[5])  # type: ignore[list-item]


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_timestamp_outside_the_range_of_utc_is_refused(tmp_path: Path, at: str) -> None:
    when = datetime.datetime.fromisoformat(at)
    with pytest.raises(InputError, match=f"'at' is {when.date()} .*; expected a time in the years 1 to 9999 UTC"):
        Index.create(tmp_path / "i", [Document("a", QUERY, {"at": when})])


def test_integers_among_doubles_become_doubles(tmp_path: Path) -> None:
    values = [2**53 + 1, 0.5, -(2**63), None]
    documents = [Document(str(n), QUERY, {"n": value}) for n, value in enumerate(values)]
    index = Index.create(tmp_path / "i", documents)
    assert index.manifest.columns == {"n": "double"}
    assert [row["n"] for row in index.metadata(["0", "1", "2", "3"])] == [2.0**53, 0.5, -(2.0**63), None]
    whole = Index.create(tmp_path / "j", documents[:1])
    assert whole.metadata(["0"]) == [{"n": 2**53 + 1}]


def test_columns_can_be_declared(tmp_path: Path) -> None:
    documents = [Document("a", QUERY, {"n": 1}), Document("b", QUERY)]
    index = Index.create(tmp_path / "i", documents, columns={"n": "double", "later": "timestamp"})
    assert index.metadata(["a", "b"]) == [{"n": 1.0, "later": None}, {"n": None, "later": None}]
    assert found_ids(index, filter="later IS NULL AND n < 1.5") == {"a"}
    with pytest.raises(InputError, match="column 'n' of type 'int'; expected one of string, int64"):
        Index.create(tmp_path / "j", documents, columns={"n": "int"})
    with pytest.raises(InputError, match="'a': metadata 'n' is not a column of this index; it has none"):
        Index.create(tmp_path / "j", documents, columns={})
    with pytest.raises(InputError, match="a datetime without a time zone"):
        Index.create(tmp_path / "j", [Document("a", QUERY, {"at": datetime.datetime(2020, 1, 1)})])
