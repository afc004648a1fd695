"""The picture of docs/scaling.md: what a query takes and finds, and what a token takes, by the size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scaling.kept import Step
from scaling.model import served_ms, sharded_ms


def draw(sizes: Sequence[Step], place: Path) -> None:
    """Draw what was measured."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "raycol"
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.8), layout="constrained")
    tokens = [size["search"]["tokens"] for size in sizes]
    _query(axes[0], tokens, sizes)
    _recall(axes[1], tokens, sizes)
    _token(axes[2], tokens, sizes)
    for each in axes:
        each.set(xscale="log", xlabel="tokens")
        each.grid(visible=True, which="both", alpha=0.3)
        each.legend(fontsize=8)
    place.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(place, metadata={"Date": None})
    plt.close(figure)


def _query(axes: Any, tokens: Sequence[int], sizes: Sequence[Step]) -> None:
    whole = [float(np.median(size["search"]["cpu_ms"]["default"])) for size in sizes]
    most = max(served_ms(sizes[0]))
    axes.plot(tokens, whole, marker="o", label="Index.search")
    axes.plot(tokens, [sharded_ms(size)[most] for size in sizes], marker="o", label=f"{most} shards, one process")
    axes.plot(
        tokens, [sum(served_ms(size)[most].values()) for size in sizes], marker="o", label=f"{most} shards over HTTP"
    )
    roots = [whole[0] * (n / tokens[0]) ** 0.5 for n in tokens]
    axes.plot(tokens, roots, linestyle=":", color="grey", label="as the square root")
    axes.set(yscale="log", ylabel="CPU milliseconds", title="a query")


def _recall(axes: Any, tokens: Sequence[int], sizes: Sequence[Step]) -> None:
    for name, key in (("of exact scores, same codes", "recall_of_exact"), ("of the original embeddings'", "recall")):
        axes.plot(tokens, [size["search"][key]["default"] for size in sizes], marker="o", label=name)
    exact = [size["search"]["recall_exact"] for size in sizes]
    axes.plot(tokens, exact, marker="o", linestyle=":", label="Index.exact, of the originals'")
    axes.set(ylabel="recall@10", title="what is found", ylim=(0, 1.05))


def _token(axes: Any, tokens: Sequence[int], sizes: Sequence[Step]) -> None:
    axes.plot(tokens, [size["search"]["bytes"] / n for size, n in zip(sizes, tokens, strict=True)], marker="o",
              label="bytes")  # fmt: skip
    quantised = [
        1e6 * size["encode"]["cpu_s"]["quantise and write"] / n for size, n in zip(sizes, tokens, strict=True)
    ]
    axes.plot(tokens, quantised, marker="o", label="CPU microseconds, quantised and written")
    axes.set(title="a token", ylim=(0, None))
