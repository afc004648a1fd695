"""A multi-vector index on disk or in an object store, and MaxSim search over it.

Accepts embeddings of any late-interaction model; imports neither Ray nor torch. docs/index-format.md specifies the
files.
"""

from typing import TYPE_CHECKING

from raycol.core.lazy import lazy_attributes

if TYPE_CHECKING:
    from raycol.index.format.document import Document
    from raycol.index.index import Index
    from raycol.index.search.candidates import CandidateGenerator, Candidates
    from raycol.index.search.pipeline import Hit
    from raycol.index.search.scoring import Match, MaxSim, Scorer
    from raycol.index.searcher import IndexStats, Searcher
    from raycol.index.write.changes import Change
    from raycol.index.write.vacuum import VacuumResult
    from raycol.index.writer import Writer

__getattr__ = lazy_attributes(
    __name__,
    {
        "CandidateGenerator": "raycol.index.search.candidates",
        "Candidates": "raycol.index.search.candidates",
        "Change": "raycol.index.write.changes",
        "Document": "raycol.index.format.document",
        "Hit": "raycol.index.search.pipeline",
        "Index": "raycol.index.index",
        "IndexStats": "raycol.index.searcher",
        "Match": "raycol.index.search.scoring",
        "MaxSim": "raycol.index.search.scoring",
        "Scorer": "raycol.index.search.scoring",
        "Searcher": "raycol.index.searcher",
        "VacuumResult": "raycol.index.write.vacuum",
        "Writer": "raycol.index.writer",
    },
)

__all__ = [
    "CandidateGenerator",
    "Candidates",
    "Change",
    "Document",
    "Hit",
    "Index",
    "IndexStats",
    "Match",
    "MaxSim",
    "Scorer",
    "Searcher",
    "VacuumResult",
    "Writer",
]
