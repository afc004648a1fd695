"""The systems that an evaluation compares, and how a line of text names one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from raycol.errors import InputError

KINDS = {
    "exact": "a late-interaction model: MaxSim over the embeddings of every document, in full precision",
    "index": "an index of raycol",
    "endpoint": "a running endpoint, by its URL",
    "single": "a single-vector model of sentence-transformers, exactly",
    "bm25": "BM25 of bm25s",
    "run": "a TREC run file",
}
RERANKERS = ("exact", "index", "endpoint", "single")
_SETTINGS: Mapping[str, Mapping[str, type]] = {
    "exact": {"embedding_size": int},
    "index": {"effort": str, "n_probe": int, "n_rescore": int, "version": int, "model": str},
    "endpoint": {"effort": str},
}
_EFFORTS = ("fast", "default", "thorough")
_NAME = re.compile(r"([\w.+-]+)=(.+)", re.DOTALL)
SETTING = re.compile(r",([a-z_]+)=([^,]+)$")
"""The last setting of a stage."""
_COLLECTION = "{collection}"
DEFAULT_DEPTH = 100
"""Hits of a first stage that are reranked."""
_EXPECTED = (
    "expected [NAME=]SYSTEM: exact:MODEL, index:INDEX[,effort=fast], a URL, single:MODEL, bm25 or run:FILE; or "
    "'FIRST > RERANKER'"
)


@dataclass(frozen=True)
class Stage:
    """A search method: its kind (see `KINDS`), the model, index, URL or file that it uses, and settings."""

    kind: str
    target: str
    settings: Mapping[str, str | int] = field(default_factory=dict)

    @property
    def embedding_size(self) -> int | None:
        """Dimensions of a token embedding; None for the model's own."""
        size = self.settings.get("embedding_size")
        return None if size is None else int(size)

    def for_collection(self, collection: str) -> Stage:
        """Return the stage with the collection's name in place of `{collection}` in its target."""
        return Stage(self.kind, self.target.replace(_COLLECTION, collection), self.settings)

    def __str__(self) -> str:
        settings = "".join(f",{name}={value}" for name, value in self.settings.items())
        if self.kind == "endpoint":
            return f"{self.target}{settings}"
        return f"{self.kind}:{self.target}{settings}" if self.target else f"{self.kind}{settings}"


@dataclass(frozen=True)
class System:
    """A search method by name, with a second stage that reranks its hits if there is one."""

    name: str
    first: Stage
    reranker: Stage | None = None

    @property
    def stages(self) -> tuple[Stage, ...]:
        """One or two stages."""
        return (self.first, self.reranker) if self.reranker else (self.first,)

    def for_collection(self, collection: str) -> System:
        """Return the system with the collection's name in place of `{collection}`."""
        reranker = self.reranker.for_collection(collection) if self.reranker else None
        return System(self.name, self.first.for_collection(collection), reranker)


def parse_systems(specs: Sequence[str]) -> list[System]:
    """Parse the names of systems.

    Args:
        specs: `[NAME=]STAGE` or `[NAME=]FIRST > RERANKER`. A stage is `exact:MODEL`, `index:INDEX`, a URL,
            `single:MODEL`, `bm25` or `run:FILE`, followed by `,setting=value`; `{collection}` stands for the name of
            each collection.

    Raises:
        InputError: a system that does not exist, a setting that it lacks, or two systems of one name.
    """
    systems = [_parse_system(spec) for spec in specs]
    names = [system.name for system in systems]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"system {repeated!r}: two systems have this name; give each a name, as in NAME={repeated}")
    return systems


def _parse_system(spec: str) -> System:
    named = _NAME.fullmatch(spec.strip())
    name, rest = (named[1], named[2]) if named else ("", spec)
    parts = [part.strip() for part in rest.split(" > ")]
    if len(parts) > 2 or not all(parts):
        raise InputError(f"system {spec!r}: {_EXPECTED}")
    first = _parse_stage(parts[0], spec, {"depth": int} if len(parts) == 2 else {})
    reranker = _parse_stage(parts[1], spec, {}) if len(parts) == 2 else None
    if reranker and reranker.kind not in RERANKERS:
        raise InputError(f"system {spec!r}: {reranker.kind} cannot rerank; expected one of {', '.join(RERANKERS)}")
    stages = [first, *([reranker] if reranker else [])]
    return System(name or " > ".join(map(_short, stages)), first, reranker)


def _parse_stage(text: str, spec: str, more: Mapping[str, type]) -> Stage:
    settings: dict[str, str | int] = {}
    while found := SETTING.search(text):
        settings = {found[1]: found[2], **settings}
        text = text[: found.start()]
    kind, colon, target = text.partition(":")
    if kind in ("http", "https") and target.startswith("//"):
        kind, colon, target = "endpoint", ":", text
    if kind not in KINDS or (kind == "bm25") == bool(target) or (colon and not target):
        raise InputError(f"system {spec!r}: {text!r} is not a system; {_EXPECTED}")
    known = {**_SETTINGS.get(kind, {}), **more}
    for name, value in settings.items():
        if name not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise InputError(f"system {spec!r}: {kind} has no setting {name!r}; {has}")
        if known[name] is int:
            if not str(value).isdigit() or int(value) < 1:
                raise InputError(f"system {spec!r}: {name} is {value!r}; expected a positive whole number")
            settings[name] = int(value)
        efforts = (*_EFFORTS, "exact") if kind == "index" else _EFFORTS
        if name == "effort" and value not in efforts:
            raise InputError(f"system {spec!r}: effort is {value!r}; expected one of {', '.join(efforts)}")
    return Stage(kind, target, settings)


def _short(stage: Stage) -> str:
    """A stage without the folders of its target, as a name."""
    target = stage.target
    if stage.kind == "endpoint":
        target = urlsplit(target).netloc
    elif target and _COLLECTION not in target:
        target = PurePosixPath(target.rstrip("/")).name
    short = Stage("endpoint" if stage.kind == "endpoint" else stage.kind, target, stage.settings)
    return str(short)
