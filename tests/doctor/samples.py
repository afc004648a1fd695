"""Facts of healthy nodes and of a small plan, for tests to change."""

from hypothesis import strategies as st

from raycol.doctor.facts import NodeFacts, PlanFacts, SharedFacts, Usage

VERSIONS = {"python": "3.12.1", "ray": "2.60.0", "raycol": "0.1.0", "torch": "2.8.0+cpu", "numpy": "2.3.0"}
HALF_FREE = Usage(total=1000 * 10**9, free=500 * 10**9)


def node(name: str = "a", **changes: object) -> NodeFacts:
    healthy = {
        "node": name,
        "is_head": name == "a",
        "versions": VERSIONS,
        "token": True,
        "python": "/venv/bin/python",
        "executable": "/venv/bin/python3",
        "resources": {"CPU": 8.0, "memory": 1e11},
        "memory": HALF_FREE,
        "disk": HALF_FREE,
        "shared": {"/shared": SharedFacts(usage=HALF_FREE)},
    }
    return NodeFacts.model_validate({**healthy, **changes})


def plan(**changes: object) -> PlanFacts:
    small = {
        "out": "s3://bucket/index",
        "index_bytes": 10**9,
        "worker_bytes": 10**9,
        "driver_bytes": 10**9,
        "num_workers": None,
        "resources": {"CPU": 1.0},
    }
    return PlanFacts.model_validate({**small, **changes})


NAMES = st.lists(st.sampled_from("abcdefgh"), min_size=1, unique=True)
