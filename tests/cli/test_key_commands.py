import json
from pathlib import Path

import pytest

from raycol.serving.keys import read_keys
from tests.cli.test_bad_input import run


def test_keys_are_made_listed_and_revoked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys.json"
    assert run("key", "add", file, "ci") == 0
    shown = capsys.readouterr()
    key = shown.out.strip()
    assert "\n" not in key
    assert key not in shown.err
    assert "only time" in shown.err
    assert run("key", "add", file, "operator", "--scope", "admin") == 0
    admin = capsys.readouterr().out.strip()

    keys = read_keys(file)
    assert (keys.scope_of(key), keys.scope_of(admin)) == ("read", "admin")

    assert run("key", "list", file) == 0
    listed = capsys.readouterr().out
    assert [line.split()[:2] for line in listed.splitlines()] == [["ci", "read"], ["operator", "admin"]]
    for entry in json.loads(file.read_text())["keys"]:
        assert entry["sha256"] not in listed

    assert run("key", "revoke", file, "ci") == 0
    assert "key ci revoked" in capsys.readouterr().out
    assert read_keys(file).scope_of(key) is None
    assert read_keys(file).scope_of(admin) == "admin"
