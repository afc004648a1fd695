"""`raycol search`: ask an index in a folder, or an endpoint that serves one."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raycol.client.schema import MAX_K, MAX_QUERIES, SearchHit
from raycol.core.config import Config, Location, Positive
from raycol.errors import InputError
from raycol.index.search.effort import Effort

# Settings of `Index.search` by the same names.
_SETTINGS = ("effort", "n_probe", "n_rescore", "device")
# What an endpoint decides itself.
_NOT_FOR_ENDPOINTS = ("model", "trust", "n_probe", "n_rescore", "device")


class SearchConfig(Config):
    """Settings of `raycol search`."""

    target: str
    """An index's folder or URI, or the address of an endpoint (http://...), whose key is in RAYCOL_API_KEY."""

    queries: list[str]
    """What to look for."""

    k: Annotated[int, Field(ge=1, le=MAX_K)] = 10
    """Hits a query."""

    model: Location | None = None
    """Where the index's encoder is now; by default where the index remembers it. Not for an endpoint."""

    filter: str | None = None
    """A SQL condition over metadata columns, such as "lang = 'en' AND year >= 2020"."""

    ids: list[str] | None = None
    """Only this document; may be given several times."""

    trust: bool = False
    """Do not check every byte of the index first. Not for an endpoint."""

    effort: Effort | None = None
    """How hard to look: fast, default or thorough."""

    n_probe: Positive | None = None
    """Centroids that each query token visits, in place of the effort's. Not for an endpoint."""

    n_rescore: Positive | None = None
    """Documents scored exactly, in place of the effort's. Not for an endpoint."""

    device: str = "cpu"
    """Where exact scores are computed: cpu, or a device of torch's such as cuda. Not for an endpoint."""

    def without_effect(self) -> dict[str, str]:
        """See `Config`."""
        both = self.n_probe is not None and self.n_rescore is not None
        return {"effort": "it stands for n_probe and n_rescore, which are given; leave it out"} if both else {}


def search(config: SearchConfig) -> list[list[SearchHit]]:
    """The hits for each query, best first.

    Raises:
        InputError: no index there, an empty query, or a setting that an endpoint does not take.
        RaycolError: the endpoint cannot be reached.
    """
    for query in config.queries:
        if not query.strip():
            raise InputError("an empty query; expected some text")
    if config.target.startswith(("http://", "https://")):
        return _ask_endpoint(config)
    return _ask_index(config)


def _ask_endpoint(config: SearchConfig) -> list[list[SearchHit]]:
    from raycol.client.sync_client import Client

    for name in _NOT_FOR_ENDPOINTS:
        if name in config.model_fields_set and getattr(config, name) not in (None, False):
            raise InputError(
                f"--{name.replace('_', '-')} goes with an index folder; {config.target} decides it itself"
            )
    results = []
    with Client(config.target) as client:
        for start in range(0, len(config.queries), MAX_QUERIES):
            # Who asks here sees hits alone, and not that some shards' are missing.
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


def _ask_index(config: SearchConfig) -> list[list[SearchHit]]:
    from raycol.index import Index
    from raycol.index.search.filters import parse_filter

    index = Index.open(config.target, trust=config.trust)
    if config.filter is not None:
        parse_filter(config.filter, index.manifest.columns)
    # torch is imported once the rest of the input is known to be good.
    from raycol.models.encoder import load_index_encoder

    encoder = load_index_encoder(index.manifest.model, config.model, device=None)
    queries = encoder.encode_query(config.queries, convert_to_numpy=True, show_progress_bar=False)
    chosen = {name: value for name in _SETTINGS if (value := getattr(config, name)) is not None}
    found = index.search(queries, config.k, filter=config.filter, ids=config.ids, **chosen)
    return [
        [
            SearchHit.of(hit.id, hit.score, metadata)
            for hit, metadata in zip(hits, index.metadata([hit.id for hit in hits]), strict=True)
        ]
        for hits in found
    ]
