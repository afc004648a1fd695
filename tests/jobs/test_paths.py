import json
from pathlib import Path

import pytest

from raycol.errors import InputError
from raycol.jobs.package import pack
from raycol.jobs.paths import check_paths
from raycol.jobs.verbs import VERBS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "corpus.jsonl").write_text("{}\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "modules.json").write_text("[]")
    (tmp_path / "ignored.jsonl").write_text("{}\n")
    (tmp_path / ".gitignore").write_text("ignored.jsonl\n")
    return tmp_path


def check(folder: Path, verb: str = "index", **settings: object) -> None:
    usual = {"corpus": "/shared/c.jsonl", "model": "m", "out": "/shared/index"} if verb == "index" else {}
    config = VERBS[verb].config.load(None, {**usual, **settings})
    check_paths(VERBS[verb], config, pack(folder), "a.yaml")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"corpus": "data"},
        {"corpus": "data/*.jsonl"},
        {"corpus": "s3://bucket/corpus", "out": "s3://bucket/index"},
        {"corpus": "hf:BeIR/scifact"},
        {"model": "/shared/model"},
        {"model": "lightonai/GTE-ModernColBERT-v1"},
    ],
)
def test_paths_that_resolve_on_the_cluster_are_accepted(folder: Path, settings: dict) -> None:
    check(folder, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"out": "index"}, "a.yaml: out is 'index', a relative path, and the job's working directory is"),
        ({"out": "~/index"}, "out is '~/index', a relative path"),
        ({"corpus": "gone.jsonl"}, "corpus is 'gone.jsonl': no such file or folder in the working directory"),
        ({"corpus": "gone/*.jsonl"}, "no such file or folder in the working directory"),
        ({"corpus": "../c.jsonl"}, "no such file or folder in the working directory"),
        (
            {"corpus": "ignored.jsonl"},
            "corpus is 'ignored.jsonl': excluded, so it is not uploaded with the job",
        ),
        ({"model": "model"}, "model is 'model': a checkpoint, so it is not uploaded with the job"),
        ({"model": "./gone"}, "model is './gone': no such file or folder"),
    ],
)
def test_paths_that_do_not_resolve_on_the_cluster_are_refused(folder: Path, settings: dict, message: str) -> None:
    with pytest.raises(InputError) as error:
        check(folder, **settings)
    assert message in str(error.value)


def test_benchmarks_are_no_paths(folder: Path) -> None:
    check(folder, "evaluate", data=("nanobeir", "beir/cqadupstack/android", "ir:vaswani"), model="m")
    with pytest.raises(InputError, match="data is 'nanobier': no such file or folder in the working directory"):
        check(folder, "evaluate", data=("nanobier",), model="m")
    (folder / "beir").mkdir()
    (folder / "beir" / "left.jsonl").write_text("{}")
    (folder / ".gitignore").write_text("beir\n")
    with pytest.raises(InputError, match="data is 'beir': excluded, so it is not uploaded"):
        check(folder, "evaluate", data=("beir",), model="m")


def test_names_of_collections_are_not_paths(folder: Path) -> None:
    for verb, name in (("evaluate", "data"), ("train", "eval_data")):
        usual = {"model": "m"} | ({"data": "data", "out": "/shared/model"} if verb == "train" else {})
        check(folder, verb, **usual, **{name: ["nanobeir", "beir/scifact", "hf:a/b", "ir:beir/scifact/test"]})
        with pytest.raises(InputError, match=f"{name} is 'scifact': no such file or folder"):
            check(folder, verb, **usual, **{name: ["nanobeir", "scifact"]})


def test_the_mining_of_a_training_is_checked(folder: Path) -> None:
    usual = {"model": "m", "data": "data/corpus.jsonl", "out": "/shared/model", "remine_every": 5}
    for mined in ("data", "/shared/corpus", "hf:a/b"):
        check(folder, "train", **usual, remine={"corpus": mined})
    with pytest.raises(
        InputError, match=r"a\.yaml: remine: corpus is 'ignored\.jsonl': excluded, so it is not uploaded"
    ):
        check(folder, "train", **usual, remine={"corpus": "ignored.jsonl"})
    with pytest.raises(InputError, match="remine: cross_encoder is 'model': a checkpoint, so it is not uploaded"):
        check(folder, "train", **usual, remine={"corpus": "data", "cross_encoder": "model"})


def test_the_trainings_of_a_sweep_are_checked(folder: Path) -> None:
    recipe = {"train": {"model": "m", "held_out": 9}, "ranges": {"data": ["data/corpus.jsonl", "gone"]}}
    (folder / "sweep.yaml").write_text(json.dumps(recipe))
    check(folder, "sweep", recipe="sweep.yaml", out="/shared/sweep", trials=1, seed=1)
    with pytest.raises(InputError, match=r"sweep\.yaml: data is 'gone': no such file"):
        check(folder, "sweep", recipe="sweep.yaml", out="/shared/sweep", trials=9)
    with pytest.raises(InputError, match=r"recipe is 'gone\.yaml': no such file"):
        check(folder, "sweep", recipe="gone.yaml", out="/shared/sweep")
    (folder / "sweep.yaml").write_text(json.dumps({**recipe, "ranges": {"sed": [1]}}))
    with pytest.raises(InputError, match="unknown key 'sed'; the nearest known key is 'seed'"):
        check(folder, "sweep", recipe="sweep.yaml", out="/shared/sweep")


def test_every_source_is_checked(folder: Path) -> None:
    sources = [{"path": "data/corpus.jsonl"}, {"path": "hf:a/b", "documents": "gone"}]
    with pytest.raises(InputError, match="data is 'gone': no such file"):
        check(folder, "train", model="m", data=sources, out="/shared/model")
    with pytest.raises(InputError, match="index is 'index', a relative path"):
        check(folder, "compact", index="index")
