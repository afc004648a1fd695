"""Where training examples are: what files they lie in, and what their ids are looked up in."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from raycol.core.config import Config, Location
from raycol.data.corpus import OnError
from raycol.data.files import HUB, CorpusFile, corpus_files, folder_of, parts_of
from raycol.data.lookup import Lookup, Role
from raycol.data.position import BadRecord
from raycol.data.readers.hub import subsets_of
from raycol.errors import InputError

_BESIDE = {"query": ("queries",), "document": ("documents", "corpus")}


class ExampleSource(Config):
    """Where training examples are. A bare string or path is the `path`."""

    path: Location
    """A file, a folder, a glob, a URI of these, or hf:NAME, a dataset of the Hugging Face hub."""

    split: str | None = None
    """Of a BEIR folder: which qrels/<split>.tsv (train by default). Of a Hugging Face dataset: which split."""

    subset: str | None = None
    """Of a dataset of the Hugging Face hub: which subset."""

    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """How much of it there is in a mixture."""

    columns: dict[str, str] | None = None
    """Which columns are what, where their names do not tell: {query: title, positive: text}."""

    queries: Location | None = None
    """Texts by query_id, where examples have ids and no `queries` lie beside them."""

    documents: Location | None = None
    """Texts by document_id, where examples have ids and no `documents` or `corpus` lie beside them."""

    @model_validator(mode="before")
    @classmethod
    def _of_a_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str | Path) else value


@dataclass
class OpenSource:
    """A source: where its examples lie, and its lookups, opened when they are first needed."""

    source: ExampleSource
    on_error: OnError
    problems: list[BadRecord] | None
    beir: bool = False
    files: list[CorpusFile] = field(default_factory=list)
    # Folders, or a dataset of the hub, in which lookups are searched for.
    beside: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        source = self.source
        if source.path.startswith(HUB):
            subset = source.subset
            if subset is None and {"train", "queries"} <= {*subsets_of(source.path)}:
                subset = "train"
            self.files = corpus_files(source.path, subset, source.split)
            self.beside = (source.path,)
            return
        parts = parts_of(source.path)
        if parts is None:
            self.files = corpus_files(source.path, source.subset, source.split)
            self.beside = (folder_of(self.files[0].uri),)
            return
        self.beside = (source.path, folder_of(source.path))
        lookups = {name for names in _BESIDE.values() for name in names}
        if "qrels" in parts or ("corpus" in parts and not parts.keys() - lookups):
            self.beir = True
            if source.subset:
                raise InputError(f"{source.path}: a BEIR folder has no subsets; leave {source.subset!r} out")
            if source.columns:
                raise InputError(f"{source.path}: a BEIR folder has columns of its own; leave 'columns' out")
        elif parts.keys() & lookups:
            split = self._choose_split(parts.keys() - lookups)
            self.files = [file for location in parts[split] for file in corpus_files(location, source.subset)]
        else:
            self.files = corpus_files(source.path, source.subset, source.split)

    def _choose_split(self, names: set[str]) -> str:
        """Which of the parts of a folder with lookups are the examples."""
        chosen = self.source.split or ("train" if "train" in names or len(names) != 1 else min(names))
        if chosen not in names:
            have = ", ".join(map(repr, sorted(names))) or "nothing"
            raise InputError(
                f"{self.source.path}: no {chosen!r} beside the queries and documents, only {have}; "
                "expected the examples there, or name them as the split"
            )
        return chosen

    @cached_property
    def queries(self) -> Lookup:
        """Queries by id."""
        return Lookup(self._files_of("query", self.source.queries), "query", self.on_error, self.problems)

    @cached_property
    def documents(self) -> Lookup:
        """Documents by id."""
        return Lookup(self._files_of("document", self.source.documents), "document", self.on_error, self.problems)

    def has(self, role: Role, id_: str) -> bool:
        """Whether there are queries, or documents, to look ids up in, and one of them has this id."""
        named = self.source.queries if role == "query" else self.source.documents
        try:
            return (self.queries if role == "query" else self.documents).find(id_) is not None
        except InputError:
            if named:
                raise
            return False  # what lies beside the examples may be something else

    def check_used(self, looked_up: Collection[Role]) -> None:
        """Raise `InputError` where the source names queries or documents, and none was looked up."""
        for setting, role in (("queries", "query"), ("documents", "document")):
            if getattr(self.source, setting) and role not in looked_up:
                raise InputError(
                    f"{self.source.path}: its examples hold the text of each {role}, not an id, so the setting "
                    f"{setting!r} has no effect; leave it out, or say which columns are ids: query_id, positive_id, "
                    "negative_id, in a header or in 'columns'"
                )

    def _files_of(self, role: Role, chosen: str | None) -> list[CorpusFile]:
        if chosen:
            return corpus_files(chosen)
        for place in self.beside:
            if place.startswith(HUB):
                subsets = subsets_of(place)
                found = [name for name in _BESIDE[role] if name in subsets or not subsets]
                if found:
                    return corpus_files(place, found[0])
                continue
            parts = parts_of(place) or {}
            for name in _BESIDE[role]:
                if locations := parts.get(name):
                    return [file for location in locations for file in corpus_files(location)]
        names = " or ".join(map(repr, _BESIDE[role]))
        setting = "queries" if role == "query" else "documents"
        raise InputError(
            f"{self.source.path}: has ids where {setting} should be, and no {names} beside it to look them up in; "
            f"expected such a file, folder or subset, or the setting {setting!r} of this source to say where it is"
        )
