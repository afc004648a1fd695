"""GradCache: the activations stored for the backward pass do not grow with the batch."""

import subprocess
import sys
import weakref
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from raycol.models.encoder import load_encoder
from raycol.models.tokenization import tokenize
from raycol.training import scoring, worker
from raycol.training.objective import make_loss
from tests.conftest import TOPICS
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
    make = worker.make_losses

    def counting(encoder, config):
        forward = encoder.forward

        def counted(*arguments, **settings):
            with torch.autograd.graph.saved_tensors_hooks(SavedTensor, lambda saved: saved.tensor):
                return forward(*arguments, **settings)

        encoder.forward = counted
        return make(encoder, config)

    monkeypatch.setattr(worker, "make_losses", counting)
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


class PeakBytes(TorchDispatchMode):
    """Peak of the bytes of all tensors that operations inside the block create."""

    def __init__(self) -> None:
        super().__init__()
        self._alive: dict[int, weakref.ref] = {}
        self._bytes = self.peak = 0

    def __torch_dispatch__(self, function, types, arguments=(), settings=None):
        out = function(*arguments, **(settings or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and id(storage := tensor.untyped_storage()) not in self._alive:
                free = partial(self._free, id(storage), storage.nbytes())
                self._alive[id(storage)] = weakref.ref(storage, free)
                self._bytes += storage.nbytes()
                self.peak = max(self.peak, self._bytes)
        return out

    def _free(self, key: int, n_bytes: int, _: object) -> None:
        del self._alive[key]
        self._bytes -= n_bytes


@pytest.mark.slow
@pytest.mark.parametrize("symmetric", [False, True])
def test_a_batchs_embeddings_and_scores_take_what_the_formula_says(
    tiny_colbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, symmetric: bool
) -> None:
    monkeypatch.setattr(scoring, "MAX_SIMILARITIES", 1 << 12)
    values = {"mini_batch_size": 4, "score_mini_batch_size": 8, "symmetric": symmetric}
    config = settings(tiny_colbert, tmp_path / "d", tmp_path / "x", **values)
    encoder = load_encoder(tiny_colbert, device="cpu").train()
    loss_of = make_loss(encoder, config)
    peaks, formulas = [], []
    for size in (64, 192):
        words = [" ".join(list(TOPICS.values())[n % 4].split()[: 1 + n % 8]) for n in range(size)]
        features = [tokenize(encoder, words, task) for task in ("query", "document")]
        n_query_tokens, n_document_tokens = (one["input_ids"].shape[1] for one in features)
        with PeakBytes() as tracked:
            loss_of(features)
        peaks.append(tracked.peak)
        embeddings = size * (3 * n_document_tokens + 2 * n_query_tokens) * encoder.get_embedding_dimension()
        formulas.append(4 * embeddings + 16 * config.score_mini_batch_size * n_query_tokens * size)
    assert 0.8 < (peaks[1] - peaks[0]) / (formulas[1] - formulas[0]) < 1.2
