from itertools import pairwise
from pathlib import Path

import pytest

from raycol.core.config import Config
from raycol.errors import InputError
from raycol.training.config import TrainConfig


class Example(Config):
    """An example."""

    name: str
    """Its name."""

    size: int = 3
    """Its size."""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_precedence_is_command_line_then_yaml_then_default(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yaml", "name: from yaml\n")
    assert Example.load(file) == Example(name="from yaml", size=3)
    assert Example.load(file, {"name": "from options", "size": None}) == Example(name="from options", size=3)


def test_every_field_of_every_verb_is_documented() -> None:
    from raycol.demo.config import DemoConfig
    from raycol.doctor.config import DoctorConfig
    from raycol.evaluation.config import EvaluateConfig
    from raycol.indexing.config import AppendConfig, CompactConfig, IndexConfig
    from raycol.jobs.submit import SubmitConfig
    from raycol.mining import MineConfig, ScoreConfig
    from raycol.retrieval import SearchConfig
    from raycol.serving.config import ServeConfig

    for config in (
        AppendConfig, CompactConfig, DemoConfig, DoctorConfig, EvaluateConfig, IndexConfig, MineConfig, SearchConfig,
        ServeConfig, SubmitConfig, ScoreConfig, TrainConfig,
    ):  # fmt: skip
        undocumented = [name for name, field in config.model_fields.items() if not field.description]
        assert not undocumented, config


LAUGHS = "a: &a [1, 1]\n" + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in pairwise("abcdefghi"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "the alias *a, which is not supported; write out its value"),
        ("name: &x y\nother:\n  <<: *x\n", "the alias *x, which is not supported"),
        ("name: y\nsize:\n  <<: {a: 1}\n", "a merge (<<), which is not supported; write out"),
        ("name: x\nname: y\n", "duplicate key 'name'"),
        ("name: x\nsize: {a: 1, b: 2, a: 3}\n", "duplicate key 'a'"),
        ("name: !!timestamp x\n", "the tag tag:yaml.org,2002:timestamp, which is not supported; remove it"),
        ("name: !!python/object:os.system x\n", "which is not supported; remove it"),
        ("name: " + "[" * 100_000, "values nested deeper than 32"),
        ("name: " + "{a: " * 40 + "1" + "}" * 40, "values nested deeper than 32"),
        ("? [a, b]\n: 1\n", "a key that is not a string"),
        ("1: x\n", "the key 1 is not the name of a setting; expected a string"),
        ("size: " + "9" * 5000, "not YAML (Exceeds the limit"),
        ("# " + "x" * 300_000, "more than 262,144 characters"),
    ],
)
def test_yaml_beyond_plain_settings_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = write(tmp_path / "c.yaml", text)
    with pytest.raises(InputError) as error:
        Example.load(file)
    assert str(error.value).startswith(f"{file}: ")
    assert message in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("text", ["2024-01-01", "2024-13-45", "2001-12-14t21:59:43.10-99:99", "=", "'<<'"])
def test_dates_stay_strings(tmp_path: Path, text: str) -> None:
    assert Example.load(write(tmp_path / "c.yaml", f"name: {text}\n")).name == text.strip("'")


@pytest.mark.parametrize("value", ["[a, b]", "{a: b}", "true", "null", "1.5", "[[a]]", '""'])
@pytest.mark.parametrize("key", ["model", "out", "data", "storage"])
def test_a_value_that_is_not_a_path_is_refused(tmp_path: Path, key: str, value: str) -> None:
    settings = {"model": "m", "data": "d", "out": "o"} | {key: value}
    file = write(tmp_path / "c.yaml", "".join(f"{name}: {text}\n" for name, text in settings.items()))
    if (key, value) in (("data", "[a, b]"), ("storage", "null")):
        TrainConfig.load(file)
        return
    with pytest.raises(InputError, match=key):
        TrainConfig.load(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nam: x\n", "unknown key 'nam'; the nearest known key is 'name'"),
        ("size: 4\n", "'name' is missing"),
        ("name: x\nsize: big\n", "c.yaml: size is 'big'"),
        ("- 1\n", "expected a mapping of settings, found a list"),
        ("a: [\n", "not YAML"),
        ("", "'name' is missing"),
    ],
)
def test_errors_name_the_key_and_what_to_do(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        Example.load(write(tmp_path / "c.yaml", text))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{path: a, columns: 3}", "c.yaml: data[0].columns is 3: "),
        ("{path: a, columns: {query: 3}}", "c.yaml: data[0].columns.query is 3: "),
        ("{path: a, colums: {}}", "c.yaml: unknown key 'data[0].colums'; the nearest known key is 'columns'"),
        ("{weight: 2}", "c.yaml: 'data[0].path' is missing"),
        ("{path: a, weight: -1}", "c.yaml: data[0].weight is -1: "),
    ],
)
def test_errors_name_nested_keys(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        TrainConfig.load(write(tmp_path / "c.yaml", f"model: m\nout: o\ndata:\n  - {source}\n"))
    assert str(tmp_path) in str(error.value)
    assert message in str(error.value)


def test_a_missing_yaml_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.yaml: no such file"):
        Example.load(tmp_path / "missing.yaml")


def test_the_batch_must_divide_among_the_workers() -> None:
    with pytest.raises(InputError, match="multiple of num_workers"):
        TrainConfig.load(None, {"model": "m", "data": "d", "out": "o", "batch_size": 9, "num_workers": 2})
