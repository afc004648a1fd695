"""Search with texts, over an index or an endpoint."""

from raycol.retrieval.results import Explanation, Hits, Results, TokenMatch
from raycol.retrieval.retriever import Retriever
from raycol.retrieval.search import SearchConfig, search

__all__ = ["Explanation", "Hits", "Results", "Retriever", "SearchConfig", "TokenMatch", "search"]
