"""The index: a codebook, immutable partitions and numbered manifests in a folder; search over them.

Works on embeddings of any late-interaction model. Imports neither Ray nor torch.
The format is described in docs/index-format.md.
"""

from typing import TYPE_CHECKING

from raycol.lazily import lazily

if TYPE_CHECKING:
    from raycol.index.changes import Change
    from raycol.index.document import Document
    from raycol.index.index import Index, IndexStats
    from raycol.index.search import Hit
    from raycol.index.vacuum import Vacuumed

__getattr__ = lazily(
    __name__,
    {
        "Change": "raycol.index.changes",
        "Document": "raycol.index.document",
        "Hit": "raycol.index.search",
        "Index": "raycol.index.index",
        "IndexStats": "raycol.index.index",
        "Vacuumed": "raycol.index.vacuum",
    },
)

__all__ = ["Change", "Document", "Hit", "Index", "IndexStats", "Vacuumed"]
