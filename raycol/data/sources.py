"""Sources of training examples: the files of the examples, and the files with the texts of their ids."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from raycol.core.config import Config, Location
from raycol.data.columns import Role
from raycol.data.corpus import OnError
from raycol.data.files import HUB, parent_folder
from raycol.data.locations import corpus_files, folder_entries
from raycol.data.readers.hub import subsets_of
from raycol.data.readers.reader import BadRecord, CorpusFile
from raycol.data.text_files import read_text_files
from raycol.data.text_store import TextStore
from raycol.errors import InputError

# Names of the files, folders or subsets with the texts, next to the examples.
_TEXT_NAMES = {"query": ("queries",), "document": ("documents", "corpus")}


class ExampleSource(Config):
    """A source of training examples. A bare string or path is the `path`."""

    path: Location
    """A file, a folder, a glob, a URI of these, or hf:NAME, a dataset on the Hugging Face hub."""

    split: str | None = None
    """Split of a Hugging Face dataset, or of a BEIR folder: qrels/<split>.tsv, train by default."""

    subset: str | None = None
    """Subset of a dataset on the Hugging Face hub."""

    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Relative weight in a mixture of sources."""

    columns: dict[str, str] | None = None
    """Column names by role, if they are not common names: {query: title, positive: text}."""

    queries: Location | None = None
    """Texts by query_id, if examples have query ids and there is no `queries` next to them."""

    documents: Location | None = None
    """Texts by document_id, if examples have document ids and there is no `documents` or `corpus` next to them."""

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str | Path) else value


@dataclass
class OpenSource:
    """The files of a source, and its texts by id, which are loaded on first use."""

    source: ExampleSource
    on_error: OnError
    problems: list[BadRecord] | None
    beir: bool = False
    files: list[CorpusFile] = field(default_factory=list)
    # Folders, or a hub dataset, to search for files with texts.
    text_locations: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        source = self.source
        if source.path.startswith(HUB):
            subset = source.subset
            if subset is None and {"train", "queries"} <= {*subsets_of(source.path)}:
                subset = "train"
            self.files = corpus_files(source.path, subset, source.split)
            self.text_locations = (source.path,)
            return
        entries = folder_entries(source.path)
        if entries is None:
            self.files = corpus_files(source.path, source.subset, source.split)
            self.text_locations = (parent_folder(self.files[0].uri),)
            return
        self.text_locations = (source.path, parent_folder(source.path))
        text_names = {name for names in _TEXT_NAMES.values() for name in names}
        if "qrels" in entries or ("corpus" in entries and not entries.keys() - text_names):
            self.beir = True
            if source.subset:
                raise InputError(f"{source.path}: a BEIR folder has no subsets; leave {source.subset!r} out")
            if source.columns:
                raise InputError(f"{source.path}: a BEIR folder has fixed columns; leave 'columns' out")
        elif entries.keys() & text_names:
            split = self._choose_split(entries.keys() - text_names)
            self.files = [file for location in entries[split] for file in corpus_files(location, source.subset)]
        else:
            self.files = corpus_files(source.path, source.subset, source.split)

    def _choose_split(self, names: set[str]) -> str:
        """Name of the entry with the examples, in a folder that also has texts."""
        split = self.source.split or ("train" if "train" in names or len(names) != 1 else min(names))
        if split not in names:
            available = ", ".join(map(repr, sorted(names))) or "nothing"
            raise InputError(
                f"{self.source.path}: no {split!r} next to the queries and documents, only {available}; "
                "put the examples there, or name their entry as the split"
            )
        return split

    @cached_property
    def queries(self) -> TextStore:
        """Queries by id."""
        return self._read("query", self.source.queries)

    @cached_property
    def documents(self) -> TextStore:
        """Documents by id."""
        return self._read("document", self.source.documents)

    def has_id(self, role: Role, id_: str) -> bool:
        """Whether an id is among the queries or documents; False if the source has none."""
        explicit = self.source.queries if role == "query" else self.source.documents
        try:
            return id_ in (self.queries if role == "query" else self.documents).find([id_])
        except InputError:
            if explicit:
                raise
            return False  # a file next to the examples may merely have such a name

    def check_used(self, looked_up: Collection[Role]) -> None:
        """Raise `InputError` if the settings name queries or documents, but no id of that role was looked up."""
        for setting, role in (("queries", "query"), ("documents", "document")):
            if getattr(self.source, setting) and role not in looked_up:
                raise InputError(
                    f"{self.source.path}: its examples hold the text of each {role}, not an id, so the setting "
                    f"{setting!r} has no effect; leave it out, or mark the columns of ids as query_id, positive_id, "
                    "negative_id, in a header or in 'columns'"
                )

    def _read(self, role: Role, explicit: str | None) -> TextStore:
        return read_text_files(self._text_files(role, explicit), role, self.on_error, self.problems)

    def _text_files(self, role: Role, explicit: str | None) -> list[CorpusFile]:
        """The files with the texts of a role: the `explicit` location, or those next to the examples."""
        if explicit:
            return corpus_files(explicit)
        for parent in self.text_locations:
            if parent.startswith(HUB):
                subsets = subsets_of(parent)
                candidates = [name for name in _TEXT_NAMES[role] if name in subsets or not subsets]
                if candidates:
                    return corpus_files(parent, candidates[0])
                continue
            entries = folder_entries(parent) or {}
            for name in _TEXT_NAMES[role]:
                if locations := entries.get(name):
                    return [file for location in locations for file in corpus_files(location)]
        names = " or ".join(map(repr, _TEXT_NAMES[role]))
        setting = "queries" if role == "query" else "documents"
        raise InputError(
            f"{self.source.path}: has ids instead of {setting}, and no {names} next to it with their texts; add such "
            f"a file, folder or subset, or set {setting!r} of this source to its location"
        )
