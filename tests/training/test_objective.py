"""Losses of one's own, and those with fused MaxSim on a CPU reference of late-interaction-kernels (for GPUs)."""

import inspect
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from raycol.models.encoder import load_encoder
from raycol.models.tokenization import tokenize
from raycol.training.loss import Loss
from raycol.training.objective import make_loss
from tests.conftest import TOPICS
from tests.training.material import REPEATED, Hinge, SquaredError, known_positives, repeated_features, settings

CALLS: list[tuple[int, ...]] = []


def maxsim(
    Q: Tensor, D: Tensor, q_mask: Tensor | None = None, d_mask: Tensor | None = None, *,
    normalize: bool = False, backward: str | None = None,
) -> Tensor:  # fmt: skip
    """Scores [n_queries, n_docs] for 3-D documents, [n_queries, n_ways] for 4-D; validates like the kernel."""
    assert backward == "unified"
    assert not normalize
    assert Q.dim() == 3
    CALLS.append(tuple(D.shape))
    if D.dim() == 4:
        if len(D) != len(Q):
            raise ValueError(f"KD layout needs D.shape[0] == Q.shape[0]; got {len(Q)} vs {len(D)}")
        scores = torch.einsum("qsd,qntd->qnst", Q, D)
        mask = None if d_mask is None else d_mask[:, :, None, :]
    else:
        scores = torch.einsum("qsd,ntd->qnst", Q, D)
        mask = None if d_mask is None else d_mask[None, :, None, :]
    assert d_mask is None or d_mask.shape == D.shape[:-1]
    assert q_mask is None or q_mask.shape == Q.shape[:-1]
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    best = scores.max(dim=-1).values
    return (best if q_mask is None else best * q_mask[:, None, :]).sum(dim=-1)


def step(model: Path, fused: bool, n_documents: int, tmp_path: Path, **values: Any) -> tuple[float, Tensor]:
    """Loss and gradient of five queries with `n_documents` each, in mini-batches of two."""
    resources = {"GPU": 1} if fused else {"CPU": 1}
    config = settings(model, tmp_path / "d", tmp_path / "x", mini_batch_size=2, resources=resources, **values)
    encoder = load_encoder(model, device="cpu").train()
    features, labels = batch_of(encoder, n_documents)
    loss = make_loss(encoder, config)(features, labels)
    loss.backward()
    return loss.item(), gradient_of(encoder)


def batch_of(encoder: Any, n_documents: int) -> tuple[list[dict[str, Any]], Tensor]:
    """Five queries with `n_documents` each, as the losses get them, and teacher scores."""
    words = [text.split() for text in TOPICS.values()]
    texts = [[" ".join(words[(i + j) % 4][: 2 + (i * j) % 5]) + "." for i in range(5)] for j in range(n_documents + 1)]
    features = [
        {**tokenize(encoder, column, task), "task": task}
        for column, task in zip(texts, ["query", *["document"] * n_documents], strict=True)
    ]
    return features, torch.linspace(-1, 1, 5 * n_documents).reshape(5, n_documents)


def gradient_of(encoder: Any) -> Tensor:
    return torch.cat([each.grad.flatten() for each in encoder.parameters() if each.grad is not None])


@pytest.mark.parametrize("loss", [Hinge(), SquaredError()])
def test_a_loss_of_ones_own_equals_torch_without_gradcache(tiny_colbert: Path, tmp_path: Path, loss: Loss) -> None:
    value, gradient = step(tiny_colbert, False, 3, tmp_path, objective=loss)
    encoder = load_encoder(tiny_colbert, device="cpu").train()
    features, teacher_QW = batch_of(encoder, 3)
    columns = []
    for column in features:
        out = encoder(dict(column), task=column["task"])
        columns.append([e[m.bool()] for e, m in zip(out["token_embeddings"], out["attention_mask"], strict=True)])
    queries, *documents = columns

    def maxsim(q: int, group: int, way: int) -> Tensor:
        return (queries[q] @ documents[way][group].T).max(dim=1).values.sum()

    if loss.needs_scores:
        terms = [(maxsim(q, q, way) - teacher_QW[q, way]) ** 2 for q in range(5) for way in range(3)]
    else:
        every = [(q, group, way) for q in range(5) for group in range(5) for way in range(3)]
        terms = [(0.5 - maxsim(q, q, 0) + maxsim(q, group, way)).relu() for q, group, way in every]
    expected = torch.stack(terms).mean()
    expected.backward()
    assert value == pytest.approx(expected.item(), rel=1e-5)
    assert torch.linalg.norm(gradient - gradient_of(encoder)) <= 1e-5 * torch.linalg.norm(gradient)


def maxsim_matrix(encoder: Any, features: list[dict[str, Any]]) -> Tensor:
    """Scores of all documents for each query, [Q, G * W], with every text encoded in one pass and nothing cached."""
    columns = []
    for number, column in enumerate(features):
        out = encoder(dict(column), task="document" if number else "query")
        columns.append([e[m.bool()] for e, m in zip(out["token_embeddings"], out["attention_mask"], strict=True)])
    queries, *documents = columns
    groups = [document for group in zip(*documents, strict=True) for document in group]
    return torch.stack([torch.stack([(q @ d.T).max(dim=1).values.sum() for d in groups]) for q in queries])


def false_negatives() -> Tensor:
    """Which documents of `REPEATED` are positives of a query, but not the one of the example, [Q, G * W]."""
    groups = [document for _, documents in REPEATED for document in documents]
    rows = [[document in known_positives(query) for document in groups] for query, _ in REPEATED]
    mask = torch.tensor(rows)
    mask[range(8), range(0, 16, 2)] = False
    return mask


@pytest.mark.parametrize(
    ("values", "dtype", "tolerance"),
    [
        ({"mini_batch_size": 3, "score_mini_batch_size": 5}, torch.float64, 1e-6),
        ({"mini_batch_size": 16, "score_mini_batch_size": 1}, torch.float64, 1e-6),
        ({"objective": "contrastive", "mini_batch_size": 5}, torch.float64, 1e-6),
        ({"mini_batch_size": 3, "score_mini_batch_size": 5}, torch.float32, 1e-5),
        ({"mini_batch_size": 3, "mask_margin": 0.1}, torch.float64, 1e-6),
        ({"mini_batch_size": 3, "mask_false_negatives": False}, torch.float64, 1e-6),
    ],
)
def test_false_negatives_are_left_out(
    tiny_colbert: Path, tmp_path: Path, values: dict[str, Any], dtype: torch.dtype, tolerance: float
) -> None:
    config = settings(tiny_colbert, tmp_path / "d", tmp_path / "x", temperature=0.5, **values)
    encoder = load_encoder(tiny_colbert, device="cpu").to(dtype).train()
    loss_of = make_loss(encoder, config)
    assert loss_of.masks_positives == config.mask_false_negatives
    value = loss_of(repeated_features(encoder, with_ids=loss_of.masks_positives))
    value.backward()
    gradient = gradient_of(encoder)
    encoder.zero_grad()
    scores = maxsim_matrix(encoder, repeated_features(encoder, with_ids=False))
    mask = false_negatives() & config.mask_false_negatives
    if config.mask_margin is not None:
        mask = mask | (scores > scores[range(8), range(0, 16, 2)][:, None] + config.mask_margin)
        assert mask.sum() > false_negatives().sum()
    expected = torch.nn.functional.cross_entropy(scores.masked_fill(mask, -torch.inf) / 0.5, torch.arange(0, 16, 2))
    expected.backward()
    assert loss_of.masked_pairs == mask.sum()
    assert value.item() == pytest.approx(expected.item(), rel=tolerance)
    assert torch.linalg.norm(gradient - gradient_of(encoder)) <= tolerance * torch.linalg.norm(gradient)


@pytest.mark.parametrize("n_documents", [1, 3])
@pytest.mark.parametrize("objective", ["contrastive", "cached", "distillation"])
@pytest.mark.parametrize("scoring", ["maxsim", "mean-maxsim", "xtr"])
def test_fused_maxsim_gives_the_same_losses_and_gradients(
    tiny_colbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str, n_documents: int, scoring: str
) -> None:
    monkeypatch.setitem(sys.modules, "late_interaction_kernels", SimpleNamespace(maxsim=maxsim))
    n_documents += objective == "distillation"
    loss, gradient = step(tiny_colbert, False, n_documents, tmp_path, objective=objective, scoring=scoring)
    CALLS.clear()
    fused_loss, fused = step(tiny_colbert, True, n_documents, tmp_path, objective=objective, scoring=scoring)
    assert bool(CALLS) == (scoring == "maxsim")
    assert fused_loss == pytest.approx(loss, rel=1e-5)
    assert torch.linalg.norm(fused - gradient) <= 1e-5 * torch.linalg.norm(gradient)


def test_the_reference_matches_the_kernels_own() -> None:
    kernels = pytest.importorskip("late_interaction_kernels")
    from late_interaction_kernels.reference import maxsim_reference

    if kernels._HAS_TRITON:
        assert list(inspect.signature(kernels.maxsim).parameters) == list(inspect.signature(maxsim).parameters)
    rng = torch.Generator().manual_seed(0)
    queries, documents = torch.randn(3, 4, 8, generator=rng), torch.randn(5, 6, 8, generator=rng)
    masks = [torch.rand(shape, generator=rng) < 0.7 for shape in ((3, 4), (5, 6))]
    for mask in masks:
        mask[:, 0] = True
    expected = maxsim_reference(queries, documents, *masks)
    assert torch.allclose(maxsim(queries, documents, *masks, backward="unified"), expected)
    own = torch.tensor([[0, 1], [2, 3], [4, 0]])
    scores = maxsim(queries, documents[own], masks[0], masks[1][own], backward="unified")
    assert torch.allclose(scores, expected.gather(1, own))
