from pathlib import Path

import pytest

from raycol.errors import InputError
from raycol.jobs.environment import runtime_env
from raycol.jobs.package import Package

PACKAGE = Package(Path("/w"), {}, [".git"])


def test_folder_variables_and_file_are_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "value=of=this")
    file = tmp_path / "env.yaml"
    file.write_text("pip: [a, b]\nenv_vars: {A: file, B: file}\n")
    assert runtime_env(PACKAGE, (), None) == {"working_dir": "/w", "excludes": [".git"]}
    environment = runtime_env(PACKAGE, ("A=option", "HERE", "EMPTY="), file)
    assert environment["env_vars"] == {"A": "option", "B": "file", "HERE": "value=of=this", "EMPTY": ""}
    assert environment["pip"] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pips: [a]", "unknown field 'pips' of a runtime environment; the nearest known one is 'pip'"),
        ("working_dir: x", "working_dir is not a field to set here; use --working-dir"),
        ("excludes: [x]", "excludes is not a field to set here; use --exclude"),
        ("pip: 3", "pip"),
        ("pip: [a]\nconda: b", "cannot be specified at the same time"),
        ("env_vars: {RAY_AUTH_TOKEN: hidden}", "RAY_AUTH_TOKEN in a job's variables: everyone who lists"),
        ("- a", "expected a mapping"),
    ],
)
def test_an_invalid_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "env.yaml").write_text(text)
    with pytest.raises(InputError) as error:
        runtime_env(PACKAGE, (), tmp_path / "env.yaml")
    assert message in str(error.value)
    assert "hidden" not in str(error.value)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("NOT_SET_ANYWHERE", "--env NOT_SET_ANYWHERE: not set in this process"),
        ("=x", "not a variable's name"),
        ("1A=hidden", "--env '1A': not a variable's name"),
        ("A B=hidden", "not a variable's name"),
        ("RAY_AUTH_TOKEN=hidden", "leave it out"),
    ],
)
def test_an_invalid_variable_is_refused_without_showing_its_value(option: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        runtime_env(PACKAGE, (option,), None)
    assert message in str(error.value)
    assert "hidden" not in str(error.value)
