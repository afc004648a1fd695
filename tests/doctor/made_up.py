"""Facts of nodes that are well, to be changed."""

from hypothesis import strategies as st

from raycol.doctor.facts import NodeFacts, PlanFacts, Room, SharedFacts

VERSIONS = {"python": "3.12.1", "ray": "2.60.0", "raycol": "0.1.0", "torch": "2.8.0+cpu", "numpy": "2.3.0"}
ROOM = Room(total=1000 * 10**9, free=500 * 10**9)


def node(name: str = "a", **changed: object) -> NodeFacts:
    well = {
        "node": name,
        "is_head": name == "a",
        "versions": VERSIONS,
        "token": True,
        "python": "/venv/bin/python",
        "executable": "/venv/bin/python3",
        "resources": {"CPU": 8.0, "memory": 1e11},
        "memory": ROOM,
        "disk": ROOM,
        "shared": {"/shared": SharedFacts(room=ROOM)},
    }
    return NodeFacts.model_validate({**well, **changed})


def plan(**changed: object) -> PlanFacts:
    small = {
        "out": "s3://bucket/index",
        "index_bytes": 10**9,
        "worker_bytes": 10**9,
        "driver_bytes": 10**9,
        "num_workers": None,
        "resources": {"CPU": 1.0},
    }
    return PlanFacts.model_validate({**small, **changed})


NAMES = st.lists(st.sampled_from("abcdefgh"), min_size=1, unique=True)
