"""A trained ColBERT on real collections."""

from pathlib import Path

import pytest

from raycol.evaluation import EvaluateConfig, evaluate


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize(("name", "expected"), [("cranfield", 0.414), ("scifact", 0.746)])
def test_exact_maxsim_of_a_trained_model(name: str, expected: float, beside: tuple[Path, Path]) -> None:
    data, models = beside
    done = evaluate(EvaluateConfig(data=data / name, model=models / "answerai-colbert-small-v1", on_error="skip"))
    assert done.metrics["nDCG@10"] == pytest.approx(expected, abs=0.002)
