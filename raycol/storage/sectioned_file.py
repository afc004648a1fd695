"""Files of named sections: an array, or a table, after the other in one file, with a checksum of each.

    section, zeros up to a multiple of 64 bytes, section, ..., table of the sections (JSON)

One file takes one memory map, where eleven arrays took eleven: a process may have 65,530. A reader that needs only
some sections checks only those, and downloads only those of an object store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from raycol.errors import IndexCorruptError
from raycol.storage.checked_files import ChecksumWriter, FileInfo, Name, describe_bytes
from raycol.storage.store import Store

# A cache line.
_ALIGNMENT = 64
MAX_TABLE_BYTES = 1 << 16


class Section(BaseModel):
    """A section's entry in the table: its first byte in the file, length in bytes and XXH3 128-bit checksum."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    start: Annotated[int, Field(ge=0, lt=2**53)]
    bytes: Annotated[int, Field(ge=0, lt=2**53)]
    xxh3: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]

    @property
    def stop(self) -> int:
        """The byte after the last one."""
        return self.start + self.bytes


_TABLE = TypeAdapter(dict[Name, Section])


def save_sections(path: Path, contents: Mapping[str, NDArray[Any]]) -> tuple[FileInfo, FileInfo]:
    """Write a new file of sections, in this order; return length and checksum of the file, and of its table."""
    sections: dict[str, Section] = {}
    with ChecksumWriter(path) as file:
        for name, array in contents.items():
            file.write(bytes(-file.tell() % _ALIGNMENT))
            content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
            sections[name] = Section(start=file.tell(), **describe_bytes(content).model_dump())
            file.write(content)
        table = _TABLE.dump_json(sections)
        file.write(table)
    return file.info, describe_bytes(table)


class SectionedFile:
    """A file of sections, opened for reading: maps the file, or what is read of it in an object store, into memory.

    Args:
        store: where the file is.
        folder, name: the file.
        info: its length and checksum.
        table: length and checksum of its table.
    """

    def __init__(self, store: Store, folder: str, name: str, info: FileInfo, table: FileInfo) -> None:
        self._store, self._folder, self._name = store, folder, name
        self._info, self._table = info, table
        # What is mapped of the file, by the position of its first byte.
        self._mapped: dict[int, NDArray[np.uint8]] = {}

    @cached_property
    def sections(self) -> dict[str, Section]:
        """The table of the sections. Raises `IndexCorruptError` if it is damaged."""
        start = self._info.bytes - self._table.bytes
        if start < 0:
            raise IndexCorruptError(f"{self.location}: shorter than the table that the manifest promises")
        try:
            sections = _TABLE.validate_json(
                bytes(self._checked("its table", start, self._info.bytes, self._table.xxh3)), strict=True
            )
        except ValidationError as error:
            raise IndexCorruptError(
                f"{self.location}: not a table of sections ({error.error_count()} errors)"
            ) from None
        for name, section in sections.items():
            if section.start % _ALIGNMENT or section.stop > start:
                raise IndexCorruptError(f"{self.location}: section {name} is not where a section can be")
        return sections

    def array(self, name: str, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
        """Return a section as an array, without comparing its checksum.

        Raises:
            IndexCorruptError: no such section, or one of another length.
        """
        section, kind = self._section(name), np.dtype(dtype)
        if section.bytes != kind.itemsize * int(np.prod(shape, dtype=object)):
            raise IndexCorruptError(
                f"{self.location}: section {name} has {section.bytes} bytes, not those of the {kind} array of shape "
                f"{shape} that the manifest promises"
            )
        array: NDArray[Any] = self._content(section.start, section.stop).view(kind).reshape(shape)
        return array

    def content(self, name: str) -> NDArray[np.uint8]:
        """Return the bytes of a section, without comparing its checksum."""
        section = self._section(name)
        return self._content(section.start, section.stop)

    def verify(self, names: Iterable[str]) -> None:
        """Compare the checksums of some sections. Raises `IndexCorruptError`."""
        sections = {name: self._section(name) for name in names}
        # Neighbours are mapped together, and downloaded in one request.
        self._content(min(each.start for each in sections.values()), max(each.stop for each in sections.values()))
        for name, section in sections.items():
            self._checked(f"section {name}", section.start, section.stop, section.xxh3)

    def map_all(self, *, verify: bool) -> None:
        """Map the whole file anew, and with `verify` compare the checksum of what is mapped.

        Sections are found there from then on; an object store downloads it at once. Raises `IndexCorruptError`.
        """
        self._mapped = {}
        if verify:
            self._checked("the file", 0, self._info.bytes, self._info.xxh3)
        else:
            self._content(0, self._info.bytes)

    @property
    def location(self) -> str:
        """Path or URI of the file, for messages."""
        return self._store.location(f"{self._folder}/{self._name}")

    def _section(self, name: str) -> Section:
        if name not in self.sections:
            raise IndexCorruptError(f"{self.location}: has no section {name}; rebuild the index")
        return self.sections[name]

    def _checked(self, what: str, start: int, stop: int, xxh3: str) -> NDArray[np.uint8]:
        """Return bytes of the file with this checksum; a damaged copy of an object is downloaded again, once."""
        content = self._content(start, stop)
        if xxhash.xxh3_128_hexdigest(content.data) != xxh3 and not self._store.is_local:
            self._store.forget(self._folder, self._name)
            self._mapped = {}
            content = self._content(start, stop)
        if xxhash.xxh3_128_hexdigest(content.data) != xxh3:
            raise IndexCorruptError(
                f"{self.location}: the checksum of {what} differs; restore the file or rebuild the index"
            )
        return content

    def _content(self, start: int, stop: int) -> NDArray[np.uint8]:
        for first, mapped in list(self._mapped.items()):  # other threads add to it
            if first <= start and stop <= first + len(mapped):
                return mapped[start - first : stop - first]
        first, mapped = self._store.mapped(self._folder, self._name, self._info, start, stop)
        self._mapped[first] = mapped
        return mapped[start - first : stop - first]
