"""GradCache: the activations stored for the backward pass do not grow with the batch."""

import subprocess
import sys
from pathlib import Path

import pytest

from raycol.training import worker
from tests.training.material import fit_in_process, settings, write_examples

STEP = """
import sys
from pathlib import Path
from raycol.core.memory import peak_memory
from tests.training.material import fit_in_process, losses, settings

model, data, workspace, size = *map(Path, sys.argv[1:4]), int(sys.argv[4])
values = {"batch_size": size, "mini_batch_size": 32, "max_steps": 1}
_, history = fit_in_process(settings(model, data, workspace / "m", **values), workspace)
assert len(losses(history)) == 1
print(peak_memory())
"""


class SavedTensor:
    """A tensor stored for the backward pass; the class counts the bytes of all live ones."""

    current_bytes = peak_bytes = 0

    def __init__(self, tensor) -> None:
        self.tensor = tensor
        SavedTensor.current_bytes += tensor.nbytes
        SavedTensor.peak_bytes = max(SavedTensor.peak_bytes, SavedTensor.current_bytes)

    def __del__(self) -> None:
        SavedTensor.current_bytes -= self.tensor.nbytes


def peak_activations(model: Path, folder: Path, size: int, objective: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Peak bytes that the encoder's forward passes of one step store for the backward pass."""
    import torch

    make = worker.make_loss

    def counting(encoder, config):
        forward = encoder.forward

        def counted(*arguments, **settings):
            with torch.autograd.graph.saved_tensors_hooks(SavedTensor, lambda saved: saved.tensor):
                return forward(*arguments, **settings)

        encoder.forward = counted
        return make(encoder, config)

    monkeypatch.setattr(worker, "make_loss", counting)
    data = write_examples(folder / f"{size}.jsonl", size)
    SavedTensor.current_bytes = SavedTensor.peak_bytes = 0
    values = {"batch_size": size, "mini_batch_size": 16, "max_steps": 1, "objective": objective}
    fit_in_process(settings(model, data, folder / "m", **values), folder / f"{objective}-{size}")
    monkeypatch.undo()
    return SavedTensor.peak_bytes


@pytest.mark.slow
def test_activations_do_not_grow_with_the_batch(
    tiny_colbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks = {size: peak_activations(tiny_colbert, tmp_path, size, "cached", monkeypatch) for size in (64, 256, 512)}
    assert peaks[64] > 0
    # Mini-batches differ only in the length of their longest text.
    assert max(peaks.values()) <= 1.25 * peaks[64]
    assert peak_activations(tiny_colbert, tmp_path, 256, "contrastive", monkeypatch) > 8 * peaks[256]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc to see a process's peak")
def test_a_step_of_16384_pairs_takes_less_than_four_gigabytes(tiny_colbert: Path, tmp_path: Path) -> None:
    size = 16_384
    data = write_examples(tmp_path / "data.jsonl", size)
    command = [sys.executable, "-c", STEP, str(tiny_colbert), str(data), str(tmp_path), str(size)]
    assert int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout) < 4e9
