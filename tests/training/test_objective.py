"""Losses of one's own, and those with fused MaxSim on a CPU reference of late-interaction-kernels (for GPUs)."""

import inspect
import itertools
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform
from sentence_transformers import SentenceTransformer
from sentence_transformers.multi_vector_encoder.scoring import colbert_kd_scores, colbert_scores
from sentence_transformers.sentence_transformer.losses import CachedGISTEmbedLoss
from torch import Tensor

from raycol.index.codec.pooling import token_pooling
from raycol.models.encoder import load_encoder
from raycol.models.tokenization import tokenize
from raycol.training import scoring
from raycol.training.gradcache import GradCache
from raycol.training.loss import Loss, LossBatch
from raycol.training.objective import Contrastive, make_loss
from raycol.training.pooling import pool
from raycol.training.positives import Mask
from raycol.training.scoring import scores_of_all, scores_of_own
from tests.conftest import TOPICS
from tests.training.material import (
    REPEATED,
    Hinge,
    SquaredError,
    known_positives,
    repeated_features,
    repeated_text,
    settings,
)

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


@pytest.mark.parametrize("ours", [scores_of_all, scores_of_own])
def test_maxsim_equals_sentence_transformers(ours: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = {scores_of_all: colbert_scores, scores_of_own: colbert_kd_scores}[ours]
    monkeypatch.setattr(scoring, "MAX_SIMILARITIES", 1000)  # several blocks of documents
    rng = torch.Generator().manual_seed(0)
    queries, documents = torch.randn(5, 4, 8, generator=rng), torch.randn(5, 3, 7, 8, generator=rng)
    masks = {
        "queries_mask": torch.rand(5, 4, generator=rng) < 0.8,
        "documents_mask": torch.rand(5, 3, 7, generator=rng) < 0.6,
    }
    masks["documents_mask"][1, 2] = False
    gradients = []
    for score in (ours, theirs):
        leaves = [queries.clone().requires_grad_(), documents.clone().requires_grad_()]
        scores = score(*leaves, **masks)
        (scores.where(scores > -1e6, 0) * torch.linspace(-1, 1, scores.numel()).view_as(scores)).sum().backward()
        gradients.append([scores, *(leaf.grad for leaf in leaves)])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


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


FIRST = range(0, 24, 3)  # positions of the first documents of `REPEATED` among all of them
TEACHER_QW = torch.linspace(-2, 2, 24).sin().reshape(8, 3) * 2


def maxsim_matrix(
    encoder: Any,
    features: list[dict[str, Any]],
    size: int | None = None,
    pool: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Scores of all documents for each query, [Q, G * W], with every text encoded in one pass and nothing cached."""
    columns = []
    for number, column in enumerate(features):
        out = encoder(dict(column), task="document" if number else "query")
        embeddings = torch.nn.functional.normalize(out["token_embeddings"][..., :size], dim=-1)
        columns.append([e[m.bool()] for e, m in zip(embeddings, out["attention_mask"], strict=True)])
    queries, *documents = columns
    groups = [document for group in zip(*documents, strict=True) for document in group]
    groups = list(map(pool, groups)) if pool else groups
    return torch.stack([torch.stack([(q @ d.T).max(dim=1).values.sum() for d in groups]) for q in queries])


def false_negatives() -> Tensor:
    """Which documents of `REPEATED` are positives of a query, but not the one of the example, [Q, G * W]."""
    groups = [document for _, documents in REPEATED for document in documents]
    mask = torch.tensor([[document in known_positives(query) for document in groups] for query, _ in REPEATED])
    mask[range(8), FIRST] = False
    assert 8 < mask.sum() < 80
    return mask


def compared(
    model: Path, tmp_path: Path, reference: Callable[[Any], Tensor], dtype: torch.dtype, **values: Any
) -> GradCache:
    """Compare loss and gradient of `REPEATED` with those of a function of the encoder."""
    config = settings(model, tmp_path / "d", tmp_path / "x", **values)
    encoder = load_encoder(model, device="cpu").to(dtype).train()
    loss_of = make_loss(encoder, config)
    features = repeated_features(encoder, with_ids=loss_of.masks_positives, guide=loss_of.guide)
    value = loss_of(features, TEACHER_QW.to(dtype) if config.distils else None)
    value.backward()
    gradient = gradient_of(encoder)
    encoder.zero_grad()
    expected = reference(encoder)
    expected.backward()
    tolerance = 1e-6 if dtype == torch.float64 else 1e-5
    assert value.item() == pytest.approx(expected.item(), rel=tolerance)
    assert torch.linalg.norm(gradient) > 1e-3
    assert torch.linalg.norm(gradient - gradient_of(encoder)) <= tolerance * torch.linalg.norm(gradient)
    return loss_of


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ({"mini_batch_size": 3, "score_mini_batch_size": 5}, torch.float64),
        ({"mini_batch_size": 16, "score_mini_batch_size": 1}, torch.float64),
        ({"objective": "contrastive", "mini_batch_size": 5}, torch.float64),
        ({"mini_batch_size": 3, "score_mini_batch_size": 5}, torch.float32),
        ({"mini_batch_size": 3, "mask_margin": 0.1}, torch.float64),
        ({"mini_batch_size": 3, "mask_false_negatives": False}, torch.float64),
    ],
)
def test_false_negatives_are_left_out(
    tiny_colbert: Path, tmp_path: Path, values: dict[str, Any], dtype: torch.dtype
) -> None:
    mask = false_negatives() & values.get("mask_false_negatives", True)

    def reference(encoder: Any) -> Tensor:
        scores = maxsim_matrix(encoder, repeated_features(encoder, with_ids=False))
        if "mask_margin" in values:
            n = mask.sum()
            mask.logical_or_(scores > scores[range(8), FIRST][:, None] + values["mask_margin"])
            assert mask.sum() > n
        logits = scores.masked_fill(mask, -torch.inf) / 0.5
        return torch.nn.functional.cross_entropy(logits, torch.tensor(FIRST))

    loss_of = compared(tiny_colbert, tmp_path, reference, dtype, temperature=0.5, **values)
    assert loss_of.masked_pairs == mask.sum()


def test_a_guide_finds_false_negatives(tiny_colbert: Path, tiny_backbone: Path, tmp_path: Path) -> None:
    encoder = SentenceTransformer(str(tiny_backbone), device="cpu")
    queries, groups = zip(*REPEATED, strict=True)
    vectors = [
        encoder.encode([repeated_text(one) for one in ids], normalize_embeddings=True)
        for ids in (queries, [document for documents in groups for document in documents])
    ]
    guided = torch.from_numpy(vectors[0] @ vectors[1].T)
    mask = guided > guided[range(8), FIRST][:, None] - 0.02
    mask[range(8), FIRST] = False
    mask |= false_negatives()
    assert false_negatives().sum() + 8 < mask.sum() < 160

    def reference(encoder: Any) -> Tensor:
        return contrastive(maxsim_matrix(encoder, repeated_features(encoder, with_ids=False)), mask)

    values = {"guide": str(tiny_backbone), "mask_margin": -0.02, "mini_batch_size": 3, "score_mini_batch_size": 5}
    loss_of = compared(tiny_colbert, tmp_path, reference, torch.float64, **values)
    assert loss_of.masked_pairs == mask.sum()


@pytest.mark.parametrize("margin", [0.0, 0.1, -0.3])
def test_guided_losses_equal_gistembed(tiny_backbone: Path, margin: float) -> None:
    model = SentenceTransformer(str(tiny_backbone), device="cpu")
    theirs = CachedGISTEmbedLoss(
        model, model, temperature=0.1, margin=margin, contrast_anchors=False, contrast_positives=False
    )
    rng = torch.Generator().manual_seed(0)
    columns, guide = (
        [torch.nn.functional.normalize(torch.randn(12, 4, generator=rng), dim=1) for _ in range(3)] for _ in "ab"
    )
    documents, guided_documents = (torch.stack(one[1:], dim=1) for one in (columns, guide))
    own = torch.arange(12) * 2
    mask = Mask(own, -margin, guide[0] @ guided_documents.flatten(0, 1).T)
    real = torch.ones(12, 2, 1, dtype=torch.bool)
    tokens = (columns[0][:, None], real[:, 0], documents[:, :, None], real)
    value = Contrastive()(LossBatch(*tokens, own, None, scores_of_all, mask, 0.1))
    expected = theirs.calculate_loss([[one] for one in columns], [[one] for one in guide])
    assert 12 < mask.n_pairs < 250
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


def cross_entropy(scores: Sequence[Tensor], correct: int) -> Tensor:
    return torch.logsumexp(torch.stack([*scores]), 0) - scores[correct]


def contrastive(scores: Tensor, mask: Tensor) -> Tensor:
    """Of the rows, the first documents being the positives."""
    rows = [[(s, n) for n, s in enumerate(row) if not mask[q, n]] for q, row in enumerate(scores)]
    terms = [cross_entropy([s for s, _ in row], [n for _, n in row].index(FIRST[q])) for q, row in enumerate(rows)]
    return torch.stack(terms).mean()


def symmetric(encoder: Any) -> Tensor:
    scores = maxsim_matrix(encoder, repeated_features(encoder, with_ids=False))
    terms = []
    for number, (_, documents) in enumerate(REPEATED):
        known = {query for query, others in REPEATED if others[0] == documents[0]}
        others = [n for n in range(8) if n == number or REPEATED[n][0] not in known]
        terms.append(cross_entropy([scores[n, FIRST[number]] for n in others], others.index(number)))
    return (contrastive(scores, false_negatives()) + torch.stack(terms).mean()) / 2


def test_the_gradient_of_the_temperature(tiny_colbert: Path, tmp_path: Path) -> None:
    log_temperature = torch.tensor(math.log(0.5), requires_grad=True)

    def reference(encoder: Any) -> Tensor:
        scores = maxsim_matrix(encoder, repeated_features(encoder, with_ids=False)) / log_temperature.exp()
        return contrastive(scores, false_negatives())

    values = {"temperature": 0.5, "temperature_learning_rate": 1e-3, "mini_batch_size": 3, "score_mini_batch_size": 5}
    loss_of = compared(tiny_colbert, tmp_path, reference, torch.float64, **values)
    assert abs(log_temperature.grad) > 1e-3
    assert loss_of.log_temperature.grad.item() == pytest.approx(log_temperature.grad.item(), rel=1e-6)
    loss_of.log_temperature.data.fill_(-9)
    loss_of(repeated_features(loss_of.model))
    assert loss_of.temperature == pytest.approx(0.01)


def matryoshka(encoder: Any) -> Tensor:
    sizes = [maxsim_matrix(encoder, repeated_features(encoder, with_ids=False), size) for size in (None, 4, 8)]
    return sum(contrastive(scores, false_negatives()) for scores in sizes) / 3


def pooled(encoder: Any) -> Tensor:
    """Contrastive on documents of half as many tokens, with the clusters of indexing."""

    def as_indexed(tokens: Tensor) -> Tensor:
        first, rest = tokens[:1], tokens[1:]
        distances = (1 - rest.detach().float() @ rest.detach().float().T).clamp(0, 2).numpy()
        linkage = hierarchy.linkage(squareform(distances, checks=False), "ward")
        clusters = hierarchy.fcluster(linkage, len(rest) // 2, "maxclust")
        means = [rest[torch.from_numpy(clusters == one)].mean(dim=0) for one in range(1, clusters.max() + 1)]
        found = torch.nn.functional.normalize(torch.cat([first, torch.stack(means)]), dim=1)
        indexed = token_pooling(2.0)(tokens.detach().float().numpy())
        assert len(found) < len(tokens)
        torch.testing.assert_close(found.detach().float(), torch.from_numpy(indexed))
        return found

    return contrastive(
        maxsim_matrix(encoder, repeated_features(encoder, with_ids=False), pool=as_indexed), false_negatives()
    )


def test_pooling_does_not_depend_on_the_encoders_precision() -> None:
    tokens = torch.nn.functional.normalize(torch.randn(22, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    with torch.autocast("cpu", torch.bfloat16):
        pooled = pool(tokens, [13, 9], 3.0)
    expected = [token_pooling(3.0)(one.numpy()) for one in tokens.split([13, 9])]
    assert pooled.lengths_B.tolist() == [len(one) for one in expected] == [5, 3]
    torch.testing.assert_close(pooled.pooled_MD.detach(), torch.from_numpy(np.concatenate(expected)))


def own_scores(encoder: Any) -> Tensor:
    scores = maxsim_matrix(encoder, repeated_features(encoder, with_ids=False))
    return torch.stack([scores[n, 3 * n : 3 * n + 3] for n in range(8)])


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    p, q = torch.softmax(teacher, 1), torch.softmax(student, 1)
    return (p * (p / q).log()).sum(1).mean()


def z_scored(encoder: Any) -> Tensor:
    student, teacher = (
        (x - x.mean(1, keepdim=True)) / x.std(1, correction=0, keepdim=True) for x in (own_scores(encoder), TEACHER_QW)
    )
    return divergence(student / 0.5, teacher.double() / 2) * 0.5**2


def with_contrastive(encoder: Any) -> Tensor:
    scores = maxsim_matrix(encoder, repeated_features(encoder, with_ids=False))
    groups = [document for _, documents in REPEATED for document in documents]
    terms = []
    for n, (query, _) in enumerate(REPEATED):
        own, known = 3 * n + int(TEACHER_QW[n].argmax()), known_positives(query)
        among = [d for d in range(24) if d == own or (d // 3 != n and groups[d] not in known)]
        terms.append(cross_entropy([scores[n, d] for d in among], among.index(own)))
    return divergence(own_scores(encoder), TEACHER_QW.double()) + 0.3 * torch.stack(terms).mean()


def lambda_loss(encoder: Any) -> Tensor:
    terms = []
    for scores, teacher in zip(own_scores(encoder), TEACHER_QW.double(), strict=True):
        relevance = [float((y - teacher.min()) / (teacher.max() - teacher.min())) for y in teacher]
        ideal = sum((2**y - 1) / math.log2(1 + n) for n, y in enumerate(sorted(relevance, reverse=True), start=1))
        rank = [1 + int((scores > one).sum()) for one in scores]
        for i, j in itertools.permutations(range(3), 2):
            if relevance[i] > relevance[j]:
                gain = abs(2 ** relevance[i] - 2 ** relevance[j]) / ideal
                apart = abs(rank[i] - rank[j])
                rho = abs(1 / math.log2(1 + rank[i]) - 1 / math.log2(1 + rank[j]))
                delta = 1 / math.log2(1 + apart) - 1 / math.log2(2 + apart)
                terms.append(gain * (rho + 10 * delta) * torch.log2(1 + torch.exp(-(scores[i] - scores[j]) / 0.5)))
    return torch.stack(terms).sum() / 8


@pytest.mark.parametrize(
    ("reference", "values"),
    [
        (symmetric, {"symmetric": True}),
        (matryoshka, {"matryoshka": (4, 8)}),
        (pooled, {"pool_factor": 2.0}),
        (
            z_scored,
            {
                "objective": "distillation",
                "normalize_scores": "z-score",
                "temperature": 0.5,
                "teacher_temperature": 2.0,
            },
        ),
        (with_contrastive, {"objective": "distillation", "contrastive_weight": 0.3, "grad_cache": True}),
        (lambda_loss, {"objective": "lambda-loss", "temperature": 0.5}),
    ],
)
def test_objectives_equal_a_plain_reference(
    tiny_colbert: Path, tmp_path: Path, reference: Callable[[Any], Tensor], values: dict[str, Any]
) -> None:
    sizes = {"mini_batch_size": 3, "score_mini_batch_size": 5}
    compared(tiny_colbert, tmp_path, reference, torch.float64, **sizes, **values)


@pytest.mark.slow
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
