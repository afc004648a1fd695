import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from raycol.doctor import node
from raycol.doctor.facts import NodeFacts


def test_a_node_reports_its_facts(tmp_path: Path) -> None:
    facts = node.gather("here", True, {"CPU": 2.0}, [], "t", str(tmp_path))
    assert facts.versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert facts.versions["numpy"] == version("numpy")
    assert set(facts.versions) == {"python", *node.PACKAGES}
    assert not facts.token  # the tests switch it off
    for usage in (facts.memory, facts.disk):
        assert usage
        assert 0 < usage.free <= usage.total
    assert NodeFacts.model_validate_json(facts.model_dump_json()) == facts
    assert node.disk(str(tmp_path / "missing")) is None


@pytest.mark.parametrize(
    ("code", "expected"),
    [("print(3)", (3, "")), ("raise ImportError('no torch here')", (None, "ImportError: no torch here"))],
)
def test_torch_counts_devices_in_its_own_process(
    code: str, expected: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text(
        f"#!{sys.executable}\nimport os, sys\nassert 'CUDA_VISIBLE_DEVICES' not in os.environ\n{code}\n"
    )
    program.chmod(0o700)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(sys, "executable", str(program))
    assert node.usable_gpus() == expected


def test_a_torch_that_hangs_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(node, "_TORCH_TIMEOUT_S", 0.2)
    assert node.usable_gpus() == (None, "torch does not answer within 0.2 seconds")
