from pathlib import Path

import pytest

from raycol.config import Config
from raycol.errors import InputError
from raycol.training.config import TrainConfig


class Example(Config):
    """An example."""

    name: str
    """What it is called."""

    size: int = 3
    """How large it is."""


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
    from raycol.evaluation.evaluate import EvaluateConfig
    from raycol.indexing.config import AppendConfig, CompactConfig, IndexConfig
    from raycol.jobs.submit import SubmitConfig
    from raycol.mining import MineConfig, TeachConfig
    from raycol.search import SearchConfig
    from raycol.serving.config import ServeConfig

    for config in (
        AppendConfig, CompactConfig, DemoConfig, DoctorConfig, EvaluateConfig, IndexConfig, MineConfig, SearchConfig,
        ServeConfig, SubmitConfig, TeachConfig, TrainConfig,
    ):  # fmt: skip
        undocumented = [name for name, field in config.model_fields.items() if not field.description]
        assert not undocumented, config


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
def test_errors_name_keys_within_others(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        TrainConfig.load(write(tmp_path / "c.yaml", f"model: m\nout: o\ndata:\n  - {source}\n"))
    assert str(tmp_path) in str(error.value)
    assert message in str(error.value)


def test_a_missing_yaml_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.yaml: no such file"):
        Example.load(tmp_path / "gone.yaml")


def test_the_batch_must_divide_among_the_workers() -> None:
    with pytest.raises(InputError, match="multiple of num_workers"):
        TrainConfig.load(None, {"model": "m", "data": "d", "out": "o", "batch_size": 9, "num_workers": 2})
