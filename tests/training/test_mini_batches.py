"""Mini-batches: sorted by length, within their size, and without padding that all of their texts share."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycol.training.mini_batches import MiniBatchSize, mini_batches
from tests.training.material import fit_in_process, settings, write_examples

LENGTHS = st.lists(st.integers(0, 40), max_size=60)


@pytest.mark.sampled
@given(LENGTHS, st.integers(1, 9), st.one_of(st.none(), st.integers(1, 100)))
def test_every_text_is_in_one_mini_batch(lengths: list[int], texts: int, tokens: int | None) -> None:
    batches = mini_batches(lengths, MiniBatchSize(texts, tokens))
    order = [row for rows in batches for row in rows]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[row] for row in order] == sorted(lengths, reverse=True)
    for rows in batches:
        if tokens is None:
            assert len(rows) <= texts
        else:
            assert len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) <= tokens


def test_sorted_texts_need_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(10, 129, 256).tolist()
    encoded = sum(len(rows) * lengths[rows[0]] for rows in mini_batches(lengths, MiniBatchSize(32, 4096)))
    assert encoded < 1.2 * sum(lengths)
    assert encoded < 0.7 * len(lengths) * max(lengths)


@pytest.mark.slow
def test_the_padded_share_is_recorded(tiny_colbert: Path, tmp_path: Path) -> None:
    data = write_examples(tmp_path / "pairs.jsonl")
    shares = []
    for name, values in (("one", {"mini_batch_tokens": 1}), ("all", {"mini_batch_size": 8})):
        config = settings(tiny_colbert, data, tmp_path / "m", max_steps=2, **values)
        _, history = fit_in_process(config, tmp_path / name)
        shares.append([entry["padded_share"] for entry in history if "padded_share" in entry])
    assert shares[0] == [0.0, 0.0]
    assert all(0 < share < 0.5 for share in shares[1])
