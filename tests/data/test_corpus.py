import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycol.data import BadRecord, Fields, Passage, read_corpus
from raycol.data.corpus import parse_passage
from raycol.errors import InputError

GOOD = b'{"_id": "a", "title": "T", "text": "some text"}\n'

BAD_LINES = {
    b"not json\n": "line 2: not JSON",
    b"[1]\n": "line 2: not a JSON object but a list",
    b'{"text": "x"}\n': "line 2: no '_id'",
    b'{"_id": 5.0, "text": "x"}\n': "line 2: the id is 5.0; expected an id: a non-empty string or an integer",
    b'{"_id": true, "text": "x"}\n': "line 2: the id is True",
    b'{"_id": "", "text": "x"}\n': "line 2: the id is ''",
    b'{"_id": "b"}\n': "document 'b' has no text",
    b'{"_id": "b", "text": "  "}\n': "document 'b' has no text",
    b'{"_id": "b", "text": 7}\n': "the text of 'b' is a int",
    b'{"_id": "a", "text": "again"}\n': "duplicate id 'a', first on line 1",
    b'{"_id": "b", "text": "\xff"}\n': "line 2: not UTF-8",
    b'{"_id": "b", "text": "\\ud800"}\n': "half of a surrogate pair",
    b'{"_id": "' + b"b" * 600 + b'", "text": "x"}\n': "the id takes 600 bytes",
    b'{"a":' * 100_000 + b"\n": "line 2: not",
    b'{"n": ' + b"1" * 5000 + b"}\n": "line 2: not usable JSON (a number with too many digits)",
}


@pytest.mark.parametrize(("line", "message"), BAD_LINES.items(), ids=BAD_LINES.values())
def test_bad_line_is_reported_or_skipped(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(GOOD + line + GOOD.replace(b'"a"', b'"z"'))
    with pytest.raises(InputError) as error:
        list(read_corpus(path))
    assert message in str(error.value)
    assert str(path) in str(error.value)

    problems: list[BadRecord] = []
    kept = list(read_corpus(path, "skip", problems))
    assert [passage.id for passage in kept] == ["a", "z"]
    assert [message in str(problem) for problem in problems] == [True]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"not json\n"])
def test_corpus_without_usable_records_is_empty(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match="an empty corpus"):
        list(read_corpus(path, "skip"))


def test_missing_file_and_empty_folder_are_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        list(read_corpus(tmp_path / "gone.jsonl"))
    with pytest.raises(InputError, match=r"no corpus files"):
        list(read_corpus(tmp_path))


def test_content_joins_title_and_text() -> None:
    assert Passage("a", "Title", "text").content == "Title text"
    assert Passage("a", "", "text").content == "text"


@given(st.text(min_size=1).filter(str.strip), st.text())
def test_any_text_is_parsed_unchanged(text: str, title: str) -> None:
    try:
        line = json.dumps({"id": "a", "title": title, "text": text}, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return
    assert parse_passage(json.loads(line), Fields()) == Passage("a", title, text)
