"""`raycol search`: search an index, or an endpoint that serves one."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raycol.client.schema import MAX_K, MAX_QUERIES, SearchHit
from raycol.core.config import Config, Location, Positive
from raycol.errors import InputError
from raycol.index.search.effort import Effort

# Arguments of `Index.search` of the same name.
_SEARCH_ARGUMENTS = ("effort", "n_probe", "n_rescore", "device")
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
    """Documents rescored exactly; overrides effort. Not for an endpoint."""

    device: str = "cpu"
    """Device for the exact scores: cpu, or a torch device such as cuda. Not for an endpoint."""

    def without_effect(self) -> dict[str, str]:
        """See `Config`."""
        both = self.n_probe is not None and self.n_rescore is not None
        return {"effort": "n_probe and n_rescore override it; leave it out"} if both else {}


def search(config: SearchConfig) -> list[list[SearchHit]]:
    """Return the hits of each query, best first.

    Raises:
        InputError: the target is not an index, a query is empty, or an endpoint does not accept a setting.
        RaycolError: the endpoint cannot be reached.
    """
    for query in config.queries:
        if not query.strip():
            raise InputError("an empty query; expected some text")
    if config.target.startswith(("http://", "https://")):
        return _search_endpoint(config)
    return _search_index(config)


def _search_endpoint(config: SearchConfig) -> list[list[SearchHit]]:
    from raycol.client.sync_client import Client

    for name in _INDEX_ONLY:
        if name in config.model_fields_set and getattr(config, name) not in (None, False):
            raise InputError(
                f"--{name.replace('_', '-')}: an endpoint sets this itself; leave it out, or search an index"
            )
    results = []
    with Client(config.target) as client:
        for start in range(0, len(config.queries), MAX_QUERIES):
            # The output shows hits only: a partial answer would go unnoticed.
            answer = client.search(
                queries=config.queries[start : start + MAX_QUERIES],
                k=config.k,
                filter=config.filter,
                ids=config.ids,
                effort=config.effort or "default",
                allow_partial=False,
            )
            results += answer.results
    return results


def _search_index(config: SearchConfig) -> list[list[SearchHit]]:
    from raycol.index import Index
    from raycol.index.search.filters import parse_filter

    index = Index.open(config.target, trust=config.trust)
    if config.filter is not None:
        parse_filter(config.filter, index.manifest.columns)
    # Imports torch, which takes seconds: after the other checks.
    from raycol.models.encoder import load_index_encoder

    encoder = load_index_encoder(index.manifest.model, config.model, device=None)
    queries = encoder.encode_query(config.queries, convert_to_numpy=True, show_progress_bar=False)
    arguments = {name: value for name in _SEARCH_ARGUMENTS if (value := getattr(config, name)) is not None}
    results = index.search(queries, config.k, filter=config.filter, ids=config.ids, with_metadata=True, **arguments)
    return [[SearchHit.of(hit.id, hit.score, hit.metadata or {}) for hit in hits] for hits in results]
