"""The layers: the direction of imports, and entry points and configurations that name existing code."""

import ast
import importlib
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.conftest import PROJECT

# The packages that each may import, besides itself, `errors` and `core`. Lower layers come first.
MAY_IMPORT = {
    "storage": set(),
    "data": set(),
    "index": {"storage"},
    "models": {"index", "storage"},  # `index` for the manifest's record of the model
    "distributed": {"storage"},
    "client": {"index"},
    "indexing": {"data", "distributed", "index", "models", "storage"},
    "retrieval": {"client", "index", "models"},
    "evaluation": {"data", "distributed", "index", "indexing", "models", "retrieval", "storage"},
    "mining": {"data", "distributed", "evaluation", "index", "indexing", "models", "storage"},
    "training": {"data", "distributed", "evaluation", "index", "indexing", "mining", "models", "storage"},
    "studies": {"data", "distributed", "evaluation", "index", "indexing", "models", "storage", "training"},
    "sweeps": {"distributed", "storage", "training"},
    "serving": {"client", "distributed", "index", "models", "storage"},
    "jobs": {"data", "distributed", "evaluation", "indexing", "mining", "sweeps", "training"},
    "doctor": {"distributed", "indexing", "storage"},
    "display": {
        "client", "data", "evaluation", "index", "indexing", "mining", "models", "serving", "studies", "sweeps",
        "training",
    },
    "demo": {
        "client", "data", "display", "distributed", "evaluation", "index", "indexing", "models", "serving", "storage",
        "training",
    },
    "verbs": {
        "client", "data", "demo", "doctor", "evaluation", "index", "indexing", "jobs", "mining", "models", "retrieval",
        "serving", "storage", "studies", "sweeps", "training",
    },
}  # fmt: skip
FOR_ALL = {"core", "errors"}
# The same inside raycol/index.
INDEX_MAY_IMPORT = {
    "kernels": set(),
    "codec": {"kernels"},
    "format": {"codec", "kernels"},
    "search": {"codec", "format", "kernels"},
    "searcher": {"codec", "format", "search"},
    "shard": {"format", "search", "searcher"},
    "write": {"codec", "format", "kernels", "search"},
    "writer": {"format", "search", "write"},
    "index": {"format", "search", "searcher", "write", "writer"},
}


def imported(path: Path) -> set[str]:
    """Modules that a file imports, anywhere in it; `from raycol import x` counts as raycol.x."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "raycol":
            names |= {f"raycol.{alias.name}" for alias in node.names} - {"raycol.__version__"}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package: str) -> None:
    for path in modules_of(PROJECT / "raycol" / package):
        ours = {name.split(".")[1] for name in imported(path) if name.startswith("raycol.")}
        assert ours <= MAY_IMPORT[package] | FOR_ALL | {package}, path


@pytest.mark.parametrize("part", INDEX_MAY_IMPORT)
def test_imports_inside_the_index_point_one_way(part: str) -> None:
    for path in modules_of(PROJECT / "raycol" / "index" / part):
        ours = {name.split(".")[2] for name in imported(path) if name.startswith("raycol.index.")}
        assert ours <= INDEX_MAY_IMPORT[part] | {part}, path


def modules_of(package: Path) -> list[Path]:
    """The files of a package, or of the module of that name."""
    return sorted(package.rglob("*.py")) if package.is_dir() else [package.with_suffix(".py")]


def test_index_and_data_import_neither_ray_nor_torch() -> None:
    # Pooling needs sentence-transformers, and GPUs torch; both are imported on use.
    on_use = {
        PROJECT / "raycol" / "index" / name for name in ("codec/pooling.py", "codec/device.py", "search/device.py")
    }
    for package in ("index", "data"):
        for path in {*(PROJECT / "raycol" / package).rglob("*.py")} - on_use:
            assert not {name.split(".")[0] for name in imported(path)} & {"ray", "torch"}, path


def test_serving_without_ray() -> None:
    # What a gateway and its shards do is tested in one process; these four wrap it for Serve.
    on_serve = {PROJECT / "raycol" / "serving" / f"{name}.py" for name in ("app", "deploy_config", "gateway", "run")}
    for path in {*(PROJECT / "raycol" / "serving").rglob("*.py")} - on_serve:
        assert "ray" not in {name.split(".")[0] for name in imported(path)}, path


@pytest.mark.parametrize("path", sorted((PROJECT / "jobs").glob("*.py")), ids=lambda path: path.name)
def test_every_entry_point_runs_a_verb(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = ast.parse(path.read_text())
    assert f"python jobs/{path.name}" in (ast.get_docstring(tree) or "")
    assert f"raycol submit {path.stem} " in (ast.get_docstring(tree) or "")
    monkeypatch.setattr("sys.argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as stopped:
        exec(compile(tree, str(path), "exec"), {"__name__": "__main__"})
    assert stopped.value.code == 0


def test_every_module_has_a_layer() -> None:
    parts = {path.stem for path in (PROJECT / "raycol").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert parts - {"__init__", "__main__", "__pycache__"} == MAY_IMPORT.keys() | FOR_ALL | {"cli"}


def test_serve_and_raycol_accept_the_serve_config(tmp_path: Path) -> None:
    from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
    from ray.serve.schema import ServeDeploySchema

    from raycol.index import Document, Index
    from raycol.serving.keys import new_key

    config = yaml.safe_load((PROJECT / "serve" / "config.yaml").read_text())
    assert set(config) <= set(ServeDeploySchema.model_fields)
    ServeDeploySchema.model_validate(config)
    (application,) = config["applications"]
    module, _, name = application["import_path"].partition(":")
    builder = getattr(importlib.import_module(module), name)
    documents = (Document(str(n), np.eye(2, 16, dtype=np.float32)) for n in range(4))
    Index.create(tmp_path / "index", documents, partition_tokens=1)
    new_key(tmp_path / "keys.json", "page")
    arguments = {**application["args"], "index": str(tmp_path / "index"), "keys": str(tmp_path / "keys.json")}
    assert call_user_app_builder_with_args_if_necessary(builder, arguments) is not None


def test_ray_accepts_the_launcher() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((PROJECT / "cluster" / "on-prem.yaml").read_text())
    validate_config(prepare_config(config))
    assert set(config["provider"]) == {"type", "head_ip", "worker_ips"}


def test_the_versions_agree() -> None:
    import raycol

    assert f"## {raycol.__version__}" in (PROJECT / "CHANGELOG.md").read_text()
