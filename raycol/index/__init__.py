"""The index: a codebook, immutable partitions and numbered manifests in a folder; search over them.

Works on embeddings of any late-interaction model. Imports neither Ray nor torch.
The format is described in docs/index-format.md.
"""

from typing import TYPE_CHECKING

from raycol.core.lazy import lazy_attributes

if TYPE_CHECKING:
    from raycol.index.format.document import Document
    from raycol.index.index import Index, IndexStats
    from raycol.index.search.pipeline import Hit
    from raycol.index.write.changes import Change
    from raycol.index.write.vacuum import Vacuumed

__getattr__ = lazy_attributes(
    __name__,
    {
        "Change": "raycol.index.write.changes",
        "Document": "raycol.index.format.document",
        "Hit": "raycol.index.search.pipeline",
        "Index": "raycol.index.index",
        "IndexStats": "raycol.index.index",
        "Vacuumed": "raycol.index.write.vacuum",
    },
)

__all__ = ["Change", "Document", "Hit", "Index", "IndexStats", "Vacuumed"]
