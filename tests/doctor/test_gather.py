from pathlib import Path

import pytest

from raycol.doctor import node
from raycol.doctor.config import DoctorConfig
from raycol.doctor.gather import gather_facts
from raycol.doctor.run import examine


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_a_local_session_is_examined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = str(tmp_path / "missing")
    (facts,) = gather_facts([str(tmp_path), missing], wait_s=60)
    assert facts.is_head
    assert facts.problem == ""
    assert facts.resources["CPU"] >= 8
    assert facts.clock_skew_s < 1
    assert facts.shared[str(tmp_path)].problem == ""
    assert "no such folder" in facts.shared[missing].problem
    assert list(tmp_path.iterdir()) == []

    findings = {finding.check: finding for finding in examine(DoctorConfig(shared=(str(tmp_path), missing)))}
    states = {name: finding.state for name, finding in findings.items()}
    assert states["nodes"] == states["versions"] == states["clocks"] == states[f"shared storage {tmp_path}"] == "ok"
    assert states[f"shared storage {missing}"] == "failed"
    assert states["authentication"] == "failed"  # the tests switch it off

    # A node whose task fails reports the error; a node that hangs is given up at the deadline.
    def fail(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'raycol'")

    def hang(*_: object) -> None:
        import time

        time.sleep(60)

    for broken, problem in ((fail, "ModuleNotFoundError: No module named 'raycol'"), (hang, "no answer within 3 s")):
        monkeypatch.setattr(node, "gather", broken)
        (facts,) = gather_facts([str(tmp_path)], wait_s=3)
        assert problem in facts.problem
        assert list(tmp_path.iterdir()) == []
