from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycol.errors import InputError, RaycolError
from raycol.serving import keys as module
from raycol.serving.keys import MAX_FILE_BYTES, MAX_KEYS, Key, Keys, Scope, WatchedKeys, new_key, read_keys, revoke_key

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


def key_fields(name: str = "ci", key: str = "x", **changes: Any) -> dict[str, Any]:
    sha256 = hashlib.sha256(key.encode()).hexdigest()
    return {"name": name, "scope": "read", "sha256": sha256, "created": "2026-01-31T12:00:00Z", **changes}


def test_a_new_key_is_in_the_file_as_its_hash(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    made = {name: new_key(file, name, scope) for name, scope in (("ci", "read"), ("operator", "admin"))}
    for key in made.values():
        assert re.fullmatch(r"raycol_[A-Za-z0-9_-]{43}", key)
        assert key not in file.read_text()
    content = json.loads(file.read_text())
    assert content == {
        "keys": [
            {
                "name": name,
                "scope": scope,
                "sha256": hashlib.sha256(made[name].encode()).hexdigest(),
                "created": content["keys"][number]["created"],
            }
            for number, (name, scope) in enumerate((("ci", "read"), ("operator", "admin")))
        ]
    }
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["keys.json"]
    assert read_keys(file).scope_of(made["ci"]) == "read"


def test_scopes(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    read, admin = new_key(file, "ci"), new_key(file, "operator", "admin")
    keys = read_keys(str(file))
    cases: list[tuple[str | None, Scope | None]] = [
        (read, "read"),
        (admin, "admin"),
        (None, None),
        ("", None),
        (read[:-1], None),
        (read + "x", None),
        (f" {read}", None),
        (keys.keys[0].sha256, None),
    ]
    for secret, scope in cases:
        assert keys.scope_of(secret) == scope
        assert keys.allows(secret, "read") == (scope is not None)
        assert keys.allows(secret, "admin") == (scope == "admin")
    assert not Keys(keys=()).allows(read, "read")


@given(st.lists(st.text(min_size=1), min_size=1, max_size=8, unique=True), st.text(), st.data())
def test_only_stored_keys_are_valid(secrets: list[str], other: str, data: st.DataObject) -> None:
    scopes = [data.draw(st.sampled_from(["read", "admin"])) for _ in secrets]
    keys = Keys(
        keys=tuple(
            Key.model_validate_json(json.dumps(key_fields(f"k{number}", scope=scope, sha256=module._digest(key))))
            for number, (key, scope) in enumerate(zip(secrets, scopes, strict=True))
        )
    )
    for key, scope in zip(secrets, scopes, strict=True):
        assert keys.scope_of(key) == scope
    assert (keys.scope_of(other) is None) == (other not in secrets)


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Keys.model_validate_json(json.dumps({"keys": [key_fields(name, name) for name in "abc"]}))
    compared = []

    def compare(one: str, other: str) -> bool:
        compared.append(one)
        return one == other

    monkeypatch.setattr(module.hmac, "compare_digest", compare)
    assert keys.scope_of("a") == "read"
    assert len(compared) == 3


@given(st.text(max_size=70) | st.from_regex(NAME, fullmatch=True))
def test_key_names_are_plain(name: str) -> None:
    content = json.dumps({"keys": [key_fields(name)]})
    if NAME.fullmatch(name):
        assert Keys.model_validate_json(content).keys[0].name == name
    else:
        with pytest.raises(ValueError, match="name"):
            Keys.model_validate_json(content)


@pytest.mark.parametrize("name", ["", "a b", "a\n", "-a", "é", "x" * 65, "../a", "\ud800"])
def test_other_names_are_rejected(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="expected up to 64 letters"):
        new_key(tmp_path / "keys.json", name)
    assert os.listdir(tmp_path) == []


def test_key_names_are_unique(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key = new_key(file, "ci")
    before = file.read_bytes()
    with pytest.raises(InputError, match="key 'ci' already exists; revoke it first"):
        new_key(file, "ci", "admin")
    with pytest.raises(InputError, match="unknown scope 'write'; expected one of read, admin"):
        new_key(file, "other", "write")
    with pytest.raises(InputError, match="no key 'other'; the file has ci"):
        revoke_key(file, "other")
    assert file.read_bytes() == before
    revoke_key(file, "ci")
    again = new_key(file, "ci")
    assert again != key
    assert read_keys(file).scope_of(key) is None


def test_the_last_key_can_be_revoked(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    new_key(file, "ci")
    revoke_key(file, "ci")
    with pytest.raises(InputError, match="the file has no keys; create one with `raycol key add`"):
        read_keys(file)
    with pytest.raises(InputError, match="the file has none"):
        revoke_key(file, "ci")
    new_key(file, "ci")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Invalid JSON"),
        (b"\xff\xfe", "Invalid JSON"),
        (b"[" * 100_000, "Invalid JSON"),
        (b"[]", "should be an object"),
        (b"{}", "keys: Field required"),
        (b'{"keys": []}', "the file has no keys"),
        (b'{"keys": {}}', "keys: "),
        (b'{"keys": [], "more": 1}', "more: "),
        (b" " * (MAX_FILE_BYTES + 1), f"larger than {MAX_FILE_BYTES} bytes"),
        ({"keys": [key_fields(scope="write")]}, "keys.0.scope: "),
        ({"keys": [key_fields(), key_fields("b", sha256="raycol_secret")]}, "keys.1.sha256: "),
        ({"keys": [key_fields(sha256="A" * 64)]}, "keys.0.sha256: "),
        ({"keys": [key_fields(created="yesterday")]}, "keys.0.created: "),
        ({"keys": [key_fields(created="2026-01-31T12:00:00")]}, "keys.0.created: "),
        ({"keys": [key_fields(key_="raycol_secret")]}, "keys.0.key_: "),
        ({"keys": [key_fields(), key_fields(key="y")]}, "two keys have the same name"),
        ({"keys": [key_fields(), key_fields("b")]}, "two keys have the same sha256"),
        ({"keys": [key_fields(f"k{n}", str(n)) for n in range(MAX_KEYS + 1)]}, "keys: "),
    ],
    ids=range(18),
)
def test_files_that_are_not_keys_are_rejected(tmp_path: Path, content: Any, message: str) -> None:
    file = tmp_path / "keys.json"
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    file.write_bytes(raw)
    with pytest.raises(InputError, match=re.escape(message)) as raised:
        read_keys(file)
    assert str(raised.value).startswith(f"{file}: ")
    assert "secret" not in str(raised.value)
    if "has no keys" not in message:
        for change in (new_key, revoke_key):
            with pytest.raises(InputError, match="not a file of API keys"):
                change(file, "ci")
        assert file.read_bytes() == raw


JSON = st.recursive(
    st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_content_is_keys_or_rejected(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any-keys.json"
    file.write_bytes(content)
    with pytest.raises(InputError):
        read_keys(file)


def test_missing_files_and_folders_are_rejected(tmp_path: Path) -> None:
    for read in (read_keys, WatchedKeys):
        with pytest.raises(InputError, match=r"keys.json: no such file; create it with `raycol key add`"):
            read(tmp_path / "keys.json")
        with pytest.raises(InputError, match="cannot be read"):
            read(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        new_key(tmp_path / "missing" / "keys.json", "ci")


def test_the_number_of_keys_is_limited(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [key_fields(f"k{n}", str(n)) for n in range(MAX_KEYS)]}, indent=2))
    assert len(read_keys(file).keys) == MAX_KEYS
    with pytest.raises(InputError, match=f"the file has {MAX_KEYS} keys, the maximum"):
        new_key(file, "one-more")


def test_a_failed_write_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys.json"
    new_key(file, "ci")
    before = file.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "replace", fail)
        with pytest.raises(RaycolError, match="cannot be written"):
            new_key(file, "other")
    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == ["keys.json"]


def test_a_symbolic_link_is_kept(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "keys.json"
    link.symlink_to(tmp_path / "real" / "keys.json")
    new_key(link, "ci")
    assert link.is_symlink()
    assert read_keys(tmp_path / "real" / "keys.json").keys[0].name == "ci"


def test_concurrent_changes_are_not_lost(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    threads = [threading.Thread(target=new_key, args=(file, f"k{n}")) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {key.name for key in read_keys(file).keys} == {f"k{n}" for n in range(16)}


def test_a_changed_file_is_reloaded(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    first = new_key(file, "first")
    watched = WatchedKeys(file)
    assert watched.keys.allows(first, "read")
    assert not watched.refresh()
    second = new_key(file, "second", "admin")
    assert not watched.keys.allows(second, "admin")
    assert watched.refresh()
    assert watched.keys.allows(second, "admin")
    assert not watched.refresh()
    revoke_key(file, "first")
    assert watched.refresh()
    assert not watched.keys.allows(first, "read")
    # Also the last one: an empty file allows nothing.
    revoke_key(file, "second")
    assert watched.refresh()
    assert not watched.keys.allows(second, "read")
    assert WatchedKeys(file).keys == Keys(keys=())


def test_an_unreadable_file_keeps_the_previous_keys(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys.json"
    key = new_key(file, "ci")
    good = file.read_bytes()
    watched = WatchedKeys(file)
    with caplog.at_level(logging.WARNING):
        file.write_text("{")
        for _ in range(3):
            assert not watched.refresh()
        file.unlink()
        for _ in range(3):
            assert not watched.refresh()
    assert watched.keys.allows(key, "read")
    first, second = (record.getMessage() for record in caplog.records)
    assert "not a file of API keys" in first
    assert "no such file" in second
    file.write_bytes(good)
    assert not watched.refresh()  # same keys, another inode
    other = new_key(file, "other")
    assert watched.refresh()
    assert watched.keys.allows(other, "read")


def test_an_unchanged_file_is_not_reloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys.json"
    new_key(file, "ci")
    watched = WatchedKeys(file)
    monkeypatch.setattr(module, "_parse", lambda _: pytest.fail("read"))
    assert not watched.refresh()
