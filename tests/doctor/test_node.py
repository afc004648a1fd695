import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from raycol.doctor import node
from raycol.doctor.facts import NodeFacts


def test_a_machine_says_what_it_is(tmp_path: Path) -> None:
    facts = node.gather("here", True, {"CPU": 2.0}, [], "t", str(tmp_path))
    assert facts.versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert facts.versions["numpy"] == version("numpy")
    assert set(facts.versions) == {"python", *node.PACKAGES}
    assert not facts.token  # the tests switch it off
    for room in (facts.memory, facts.disk):
        assert room
        assert 0 < room.free <= room.total
    assert NodeFacts.model_validate_json(facts.model_dump_json()) == facts
    assert node.disk(str(tmp_path / "gone")) is None


@pytest.mark.parametrize(
    ("said", "expected"),
    [("print(3)", (3, "")), ("raise ImportError('no torch here')", (None, "ImportError: no torch here"))],
)
def test_torch_is_asked_in_a_process_of_its_own(
    said: str, expected: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text(
        f"#!{sys.executable}\nimport os, sys\nassert 'CUDA_VISIBLE_DEVICES' not in os.environ\n{said}\n"
    )
    program.chmod(0o700)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(sys, "executable", str(program))
    assert node.usable_gpus() == expected


def test_a_torch_that_hangs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(node, "_GPU_S", 0.2)
    assert node.usable_gpus() == (None, "torch does not answer within 0.2 seconds")
