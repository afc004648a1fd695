"""`raycol search`: search an index, or an endpoint that serves one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from raycol.client.schema import MAX_K
from raycol.core.config import Config, Location, Positive
from raycol.errors import InputError
from raycol.index.search.effort import Effort

if TYPE_CHECKING:
    pass

from raycol.retrieval.results import Results
from raycol.retrieval.retriever import Retriever, check_texts, is_url

# Settings of the endpoint, not of a request.
_INDEX_ONLY = ("model", "trust", "n_probe", "n_rescore", "device")


class SearchConfig(Config):
    """Settings of `raycol search`."""

    target: str
    """Folder or URI of an index, or address of an endpoint (http://...), whose API key is read from RAYCOL_API_KEY."""

    queries: list[str]
    """Query texts."""

    k: Annotated[int, Field(ge=1, le=MAX_K)] = 10
    """Hits per query."""

    model: Location | None = None
    """The index's encoder, if it has moved. Default: the one that the index records. Not for an endpoint."""

    filter: str | None = None
    """A SQL condition over metadata columns, such as "lang = 'en' AND year >= 2020"."""

    ids: list[str] | None = None
    """Search this document only; repeat for several."""

    trust: bool = False
    """Skip the checksums of the index's files. Not for an endpoint."""

    effort: Effort | None = None
    """Trade-off of recall and time: fast, default or thorough."""

    n_probe: Positive | None = None
    """Centroids probed for each query token; overrides effort. Not for an endpoint."""

    n_rescore: Positive | None = None
    """Documents to rescore; overrides effort. Not for an endpoint."""

    device: str = "cpu"
    """Device for the exact scores: cpu, or a torch device such as cuda. Not for an endpoint."""

    def without_effect(self) -> dict[str, str]:
        """See `Config`."""
        both = self.n_probe is not None and self.n_rescore is not None
        return {"effort": "n_probe and n_rescore override it; leave it out"} if both else {}


def search(config: SearchConfig) -> Results:
    """Return the hits of each query, best first.

    Raises:
        InputError: the target is not an index, a query is empty, or an endpoint does not accept a setting.
        RaycolError: the endpoint cannot be reached.
    """
    queries = check_texts(config.queries)
    settings: dict[str, Any] = {"filter": config.filter, "ids": config.ids, "effort": config.effort or "default"}
    if is_url(config.target):
        for name in _INDEX_ONLY:
            if name in config.model_fields_set and getattr(config, name) not in (None, False):
                raise InputError(f"`{name}=`: an endpoint sets this itself; leave it out, or search an index")
        with Retriever(config.target) as retriever:
            return retriever.search(queries, config.k, **settings)
    from raycol.index import Searcher

    index = Searcher(config.target, trust=config.trust)
    if config.filter is not None:
        # Opening the encoder takes seconds: after the other checks.
        from raycol.index.search.filters import parse_filter

        parse_filter(config.filter, index.manifest.columns)
    settings |= {"n_probe": config.n_probe, "n_rescore": config.n_rescore, "device": config.device}
    return Retriever(index, model=config.model).search(queries, config.k, **settings)
