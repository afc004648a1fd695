"""Study `determinism`: how often repeated builds and searches return the same lists, and from the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from raycol.core.config import Positive
from raycol.studies.cells import Bench, CellSettings, Point
from raycol.studies.peer import run_peer

_K = 10


class DeterminismSettings(CellSettings):
    """Settings of a cell: a build in a process of its own, and a search for all queries."""

    engine: Literal["raycol", "fast-plaid"]
    """Engine that builds and searches."""

    threads: Positive = 1
    """Threads of the numerical libraries, in building and in searching."""

    workers: Positive | None = None
    """Ray workers of raycol's build; by default it builds in its own process."""

    search_threads: Positive = 1
    """Threads that search."""

    seed: int = 0
    """Seed of the sample and of k-means; another one shows what sampling decides."""

    prune: bool = True
    """raycol searches through lists; otherwise it scores every document, which leaves only what the codes decide."""

    repeat: int = 0
    """Number of the repetition."""

    @property
    def needs_peers(self) -> bool:
        """See `CellSettings`."""
        return self.engine == "fast-plaid"


def measure(settings: DeterminismSettings, collection: str | None, bench: Bench) -> list[Point]:
    """Build and search once."""
    opened = bench.open(collection)
    asked = settings.model_dump(exclude={"engine", "threads", "repeat"}) | {"k": _K}
    python = bench.config.peers if settings.needs_peers else None
    answer = run_peer(settings.engine.replace("-", "_"), python, opened.embeddings, asked, settings.threads)
    ids = opened.embeddings.documents.ids
    hits = [[ids[int(position)] for position in found] for found in answer["hits"]]
    ranked = [[(id_, -float(rank)) for rank, id_ in enumerate(found)] for found in hits]
    return [
        Point(
            collection=opened.name,
            per_query=opened.score(ranked),
            hits=hits,
            digest=answer["bytes"],
            versions={settings.engine: answer["version"]},
        )
    ]


def relate(points: Sequence[tuple[DeterminismSettings, Point]]) -> list[Mapping[str, float]]:
    """Compare every point with the first of its engine that searches alike: lists, and bytes of the index.

    Bytes are compared only between builds of one kind, since a build on workers cuts the corpus into other partitions.
    """
    first_lists: dict[tuple[object, ...], Point] = {}
    first_bytes: dict[tuple[object, ...], Point] = {}
    related: list[Mapping[str, float]] = []
    for settings, point in points:
        lists = first_lists.setdefault((settings.engine, settings.prune), point).hits
        built = first_bytes.setdefault((settings.engine, settings.workers is None), point)
        pairs = list(zip(lists, point.hits, strict=True))
        related.append(
            {
                "identical lists": sum(one == other for one, other in pairs) / len(pairs),
                "overlap@10": sum(len({*one} & {*other}) / max(1, len(one)) for one, other in pairs) / len(pairs),
                "same bytes": float(built.digest == point.digest),
            }
        )
    return related
