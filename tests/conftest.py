"""Fixtures: a tiny backbone made on the spot, a small corpus, one local Ray session, the data beside the project."""

from __future__ import annotations

import atexit
import gc
import json
import os
import shutil
import string
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.storage.server import Server

# Read by OpenMP, Ray and the hub's client when they are first loaded. Test processes run side by side, and their
# matrices are small: with several threads each, most of their time would be spent waiting for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["RAY_AUTH_MODE"] = "disabled"
# Workers start when they are needed; otherwise a session starts one a logical CPU, and most tests need two. On a busy
# machine starting one may take a minute.
os.environ |= {
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_gcs_server_request_timeout_seconds": "120",
}
os.environ["HF_HUB_OFFLINE"] = "1"
# Tests start a few hundred Python processes; without bytecode each of them would compile raycol anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Nobody reads a test process's exit code if it runs side by side with others, and freeing its millions of objects one
# by one takes seconds. Handlers that libraries register later run before this one.
if "PYTEST_XDIST_WORKER" in os.environ:
    atexit.register(os._exit, 0)
os.environ.pop("RAY_ADDRESS", None)

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

sys.dont_write_bytecode = False  # as for the processes that tests start

# Examples of a property in `make test`, and in `make test-long` (--hypothesis-profile long).
settings.register_profile(
    "quick",
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
settings.register_profile("long", settings.get_profile("quick"), max_examples=300)
settings.load_profile("quick")

PROJECT = Path(__file__).parent.parent


def tries_all() -> bool:
    """Whether tests with many cases try all of them, as with the profile `long`, or some of each kind."""
    return settings.default.max_examples > 25


DATA = Path(os.environ.get("RAYCOL_DATA", PROJECT.parent / "shared" / "data"))
MODELS = Path(os.environ.get("RAYCOL_MODELS", PROJECT.parent / "shared" / "models"))

TOPICS = {
    "weather": "rain wind storm cloud snow thunder sunshine fog",
    "music": "violin piano melody chord rhythm orchestra song choir",
    "kitchen": "bread butter oven recipe flour sugar pan knife",
    "harbour": "ship anchor sail dock captain cargo tide lighthouse",
}


# Files of `make test` whose tests share the Ray session, and the endpoint on it: one test process runs all of them.
ON_RAY = {
    "tests/distributed/test_partitioned_job.py",
    "tests/doctor/test_gather.py",
    "tests/indexing/test_build.py",
    "tests/indexing/test_plan_ranges.py",
    "tests/serving/test_maximums.py",
    "tests/serving/test_wire.py",
    "tests/test_ray_session.py",
    "tests/training/test_train.py",
}
# What `make test-fast` selects.
FAST = "not slow and not sockets and not long"
_SLOW = {"slow", "long"}
# Fixtures that serve on a socket; tests that use them are not among the fast ones.
_SERVERS = {"s3", "s3_server", "ray_local", "on_serve", "running", "served", "base_url", "server"}
_SIDE_BY_SIDE = "PYTEST_XDIST_WORKER" in os.environ
_may_connect = True
_ray_session = ExitStack()


def _file(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


def _is_fast(item: pytest.Item) -> bool:
    return not any(item.get_closest_marker(name) for name in (*_SLOW, "sockets"))


def _refuse_sockets(event: str, arguments: tuple) -> None:
    if event in ("socket.bind", "socket.connect") and not _may_connect and isinstance(arguments[1], tuple):
        raise RuntimeError(f"{event} {arguments[1]} in a fast test: mark it slow, or with sockets")


sys.addaudithook(_refuse_sockets)


def pytest_configure(config: pytest.Config) -> None:
    """Fast tests write in memory: they flush thousands of files. The last run's 300 MB stay there."""
    memory = Path("/dev/shm")
    if config.option.markexpr == FAST and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 4 << 30:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(memory))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[object]:
    """Import test modules without the garbage collector, which every training runs before it begins."""
    from raycol.core.lazy import without_gc

    with without_gc():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Keep fast tests from the network, and so from Ray; end the Ray session after the last test that shares it.

    An open session would change what later tests of this process do: `choose_executor` uses it.
    """
    global _may_connect
    _may_connect = not _is_fast(item)
    try:
        return (yield)
    finally:
        _may_connect = True
        if _SIDE_BY_SIDE and _file(item) in ON_RAY and (nextitem is None or _file(nextitem) not in ON_RAY):
            _ray_session.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first: a plain mistake should not wait for the others. Side by side, slow ones first."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if _SERVERS & fixtures:
            item.add_marker("sockets")
        if "ray_local" in fixtures and not item.get_closest_marker("long"):
            assert _file(item) in ON_RAY, f"{_file(item)}: its tests use the Ray session; add it to ON_RAY"
        if item.get_closest_marker("hypothesis"):
            item.add_marker("sampled")
    items.sort(key=lambda item: item.get_closest_marker("slow") is None if _SIDE_BY_SIDE else not _is_fast(item))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadfile`, the files that share the Ray session go to one process, one after the other."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class OneRaySession(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "on Ray" if file in ON_RAY else file

    return OneRaySession(config, log)


@pytest.fixture(scope="module", autouse=True)
def _actors_end(request: pytest.FixtureRequest) -> Iterator[None]:
    """What the tests of a file start on Ray ends with them, but for the endpoint that files share."""
    yield
    if request.node.nodeid not in ON_RAY:
        return
    import ray

    deadline = time.monotonic() + 60
    while ray.is_initialized() and (alive := _actors()):
        assert time.monotonic() < deadline, f"actors that the tests left: {alive}"
        gc.collect()  # an error that a test looked at refers to frames, and these to handles
        time.sleep(0.2)


# Serve's, and what Ray keeps for as long as its session.
_BACKGROUND = ("Serve", "HAProxy", "Proxy", "_StatsActor", "_AutoscalingCoordinatorActor", "ActorLocationTracker")


def _actors() -> list[str]:
    import ray

    rows = ray._private.state.actors().values()
    names = [row["ActorClassName"] for row in rows if row["State"] != "DEAD"]
    return [name for name in names if not name.startswith(_BACKGROUND)]


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers and 32 dimensions with random weights and a vocabulary of letters and topic words."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("tiny-backbone")
    words = sorted({word for text in TOPICS.values() for word in text.split()} | set(TOPICS))
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *letters, *(f"##{c}" for c in letters)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    torch.manual_seed(0)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_colbert(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved late-interaction model over the tiny backbone: 16 dimensions, short expanded queries."""
    from raycol.models.encoder import load_encoder

    folder = tmp_path_factory.mktemp("tiny-colbert") / "model"
    encoder = load_encoder(
        tiny_backbone,
        device="cpu",
        embedding_size=16,
        query_length=8,
        document_length=32,
        query_expansion=True,
    )
    encoder.save_pretrained(str(folder))
    return folder


def make_passages(n: int, seed: int = 0) -> list[dict[str, str]]:
    rng = np.random.default_rng(seed)
    passages = []
    for number in range(n):
        topic = sorted(TOPICS)[number % len(TOPICS)]
        words = rng.choice(TOPICS[topic].split(), rng.integers(3, 12))
        passages.append({"_id": f"{topic}-{number}", "title": topic, "text": " ".join(words)})
    return passages


def write_jsonl(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Sixty short passages on four topics."""
    return write_jsonl(tmp_path / "corpus.jsonl", make_passages(60))


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """One Ray session for all tests that need one, ended after the last of them."""
    from raycol.distributed.session import ray_session

    with _ray_session:
        _ray_session.enter_context(ray_session(CPU=8))
        yield


@pytest.fixture
def clustered() -> list[np.ndarray]:
    return make_clustered(200, 32, seed=0)


def make_clustered(n: int, dim: int, seed: int, n_centres: int = 24) -> list[np.ndarray]:
    """Documents of unit tokens around shared centres, as embeddings of text are: float32 [n_tokens, dim] each."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.standard_normal((n_centres, dim)))
    return [
        unit(centres[rng.integers(0, n_centres, length)] + 0.7 * unit(rng.standard_normal((length, dim))))
        for length in rng.integers(1, 30, n)
    ]


def save_encoded(path: Path, documents: list[np.ndarray], ids: list[str] | None = None) -> Path:
    """An encoded corpus; ids are numbers unless given."""
    names = np.array(ids or [f"d{number}" for number in range(len(documents))])
    np.savez(path, ids=names, lengths=np.array([*map(len, documents)]), embeddings=np.concatenate(documents))
    return path


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def beside() -> tuple[Path, Path]:
    """The data and models beside the project; tests that need them are skipped without."""
    for path, name in ((DATA, "RAYCOL_DATA"), (MODELS, "RAYCOL_MODELS")):
        if not path.is_dir():
            pytest.skip(f"needs {path}; point {name} at it")
    return DATA, MODELS


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Server]:
    """One S3 server for all tests that need one."""
    from tests.storage.server import Server

    server = Server()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh prefix in a bucket of a server that the environment names, and a fresh cache."""
    from tests.storage.server import CREDENTIALS, make_bucket

    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{s3_server.address}")
    monkeypatch.setenv("RAYCOL_CACHE", str(tmp_path / "cache"))
    make_bucket("corpora")
    del s3_server.requests[:]
    return f"s3://corpora/{tmp_path.name}"
