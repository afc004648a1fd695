from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from urllib.parse import unquote

import httpx2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from numpy.typing import NDArray
from tenacity import Retrying

from raycol.client.calls import document, pack
from raycol.client.connection import timeout
from raycol.client.retry import MAX_RETRY_AFTER_S, retry_after, retry_options

CLIENT = httpx2.Client(
    base_url="http://endpoint/prefix", transport=httpx2.MockTransport(lambda _: httpx2.Response(200))
)
NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


@given(
    st.integers(0, 30),
    st.floats(0.01, 1000),
    st.lists(st.tuples(st.floats(0, 20), st.none() | st.integers(0, 100)), min_size=31, max_size=31),
    st.floats(0, 1),
)
def test_retries_end_by_number_and_by_time(
    retries: int, timeout_s: float, steps: list[tuple[float, int | None]], draw: float
) -> None:
    now = start = 50.0
    remaining = iter(steps)
    afters: list[int | None] = []
    waits: list[float] = []

    def attempt() -> httpx2.Response:
        nonlocal now
        took, after = next(remaining)
        now += took
        afters.append(after)
        return httpx2.Response(503, headers={} if after is None else {"retry-after": str(after)})

    def sleep(wait: float) -> None:
        nonlocal now
        assert wait >= min(afters[-1] or 0, MAX_RETRY_AFTER_S)
        waits.append(wait)
        now += wait
        assert now < start + timeout_s
        assert 0 < remaining_s() <= timeout_s + 1e-6

    def remaining_s() -> float:
        return start + timeout_s - now

    options = retry_options(lambda _: True, retries, remaining_s)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("random.uniform", lambda low, high: low + draw * (high - low))
        assert Retrying(sleep=sleep, **options)(attempt).status_code == 503
    assert len(waits) == len(afters) - 1 <= retries
    assert 0 < (timeout(remaining_s()).read or 0) <= timeout_s + 1e-6


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0),
        ("", 0),
        ("0", 0),
        (" 12 ", 12),
        ("1" * 5000, MAX_RETRY_AFTER_S),
        ("-5", 0),
        ("1.5", 0),
        ("²", 0),
        (format_datetime(NOW + timedelta(seconds=9), usegmt=True), 9),
        (format_datetime(NOW + timedelta(days=9), usegmt=True), MAX_RETRY_AFTER_S),
        (format_datetime(NOW - timedelta(days=9), usegmt=True), 0),
        ("Sat, 31 Jan 2026 12:00:08 -0000", 8),
        ("Sat, 31 Jan 99999999999999999999 12:00:08 GMT", 0),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float) -> None:
    assert retry_after(header, NOW) == seconds


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d{1,30} Jan \d{1,30} \d\d:\d\d:\d\d [+-]\d{4}", fullmatch=True))
def test_retry_after_never_exceeds_the_limit(header: str) -> None:
    assert 0 <= retry_after(header, NOW) <= MAX_RETRY_AFTER_S


@given(
    st_numpy.arrays(
        st.sampled_from([np.float16, np.float32, np.float64, np.dtype(">f4")]),
        st.tuples(st.integers(1, 20), st.integers(1, 20)),
        elements=st.floats(-1024, 1024, width=16),
    )
)
def test_packing_round_trips(array: NDArray) -> None:
    packed = pack(array, "query")
    assert np.array_equal(packed.unpack(array.shape[1]), array)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=100))
def test_an_id_is_one_path_segment(id_: str) -> None:
    sent = CLIENT.build_request("GET", document(id_).path)
    path = sent.url.raw_path.decode()
    assert path.count("/") == 4
    assert unquote(path.removeprefix("/prefix/v1/documents/")) == id_
