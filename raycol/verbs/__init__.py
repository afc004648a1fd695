"""The verbs as functions: `raycol.build_index(texts, model=..., out="my-index")` is `raycol index build`.

Keyword arguments are the fields of the verb's configuration, with the same names, types and defaults; what is
positional on the command line is positional here. A function shows its progress and returns the verb's result.
"""

from raycol.verbs.endpoints import deploy, run_demo, run_doctor, search, serve, submit
from raycol.verbs.indexes import (
    append_index,
    build_index,
    compact_index,
    delete_documents,
    index_info,
    migrate_index,
    plan_index,
    vacuum_index,
    verify_index,
)
from raycol.verbs.models import evaluate, export, mine, plan_training, push, score, study, sweep, train

__all__ = [
    "append_index",
    "build_index",
    "compact_index",
    "delete_documents",
    "deploy",
    "evaluate",
    "export",
    "index_info",
    "migrate_index",
    "mine",
    "plan_index",
    "plan_training",
    "push",
    "run_demo",
    "run_doctor",
    "score",
    "search",
    "serve",
    "study",
    "submit",
    "sweep",
    "train",
    "vacuum_index",
    "verify_index",
]
