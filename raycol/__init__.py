"""raycol: train, index and serve late-interaction (ColBERT-style, multi-vector) retrieval on Ray.

The names below index and search on one machine, or query an endpoint, without Ray. They are imported on first use:
`import raycol` and `raycol --help` stay fast, and searching an index needs neither torch nor Ray installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raycol.core.lazy import lazy_attributes

__version__ = "0.1.0"

if TYPE_CHECKING:
    from raycol.client.async_client import AsyncClient
    from raycol.client.sync_client import Client
    from raycol.index import Document, Hit, Index
    from raycol.models.encoder import load_encoder

__getattr__ = lazy_attributes(
    __name__,
    {
        "AsyncClient": "raycol.client.async_client",
        "Client": "raycol.client.sync_client",
        "Document": "raycol.index",
        "Hit": "raycol.index",
        "Index": "raycol.index",
        "load_encoder": "raycol.models.encoder",
    },
)

__all__ = ["AsyncClient", "Client", "Document", "Hit", "Index", "__version__", "load_encoder"]
