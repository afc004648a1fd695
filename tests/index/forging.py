"""A small index with several versions, and helpers that forge its files with valid checksums, as an attacker could.

A section of a partition's file is named like a file in it: partitions/NAME/partition.bin/codes.
"""

from __future__ import annotations

import datetime
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from raycol.index import Document, Index

DIM = 8
FILE = "partition.bin"
TABLE_START = b'{"codes":'
DTYPES = {
    "codes": np.uint16, "residuals": np.uint8, "gains": np.uint8, "scales": np.float16, "list_offsets": np.uint16,
    "lists": np.uint8, "offsets": np.int64, "id_bytes": np.uint8, "id_offsets": np.uint32, "id_hashes": np.uint32,
    "id_positions": np.uint32,
}  # fmt: skip
COLUMNS = ("n", "t", "x", "b", "day", "at")
ENVELOPE = b'{"format":"raycol-index","format_version":%d,"checksum":"%s",\n"manifest":%s}\n'


def small_documents(start: int, stop: int) -> Iterator[Document]:
    for number in range(start, stop):
        rng = np.random.default_rng(number)
        embeddings = rng.standard_normal((1 + number % 3, DIM)).astype(np.float32)
        moment = datetime.datetime(2020, 1, 1 + number, tzinfo=datetime.UTC)
        metadata = dict(
            zip(COLUMNS, (number, f"t{number}", number / 2, number % 2 == 0, moment.date(), moment), strict=True)
        )
        yield Document(f"d{number}", embeddings, metadata)


def small_index(root: Path) -> Path:
    """Create an index of four versions: 12 documents in three partitions, two of them with lists, two with deletes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("raycol.index.format.lists.STORED_TOKENS", 1)
        index = Index.create(root, small_documents(0, 7), bits=2, n_centroids=4, partition_tokens=9)
    index.append(small_documents(7, 12))
    index.delete(["d1"])
    index.delete(["d2", "d8"])
    assert (len(index.partitions), len(index), index.version) == (3, 9, 4)
    assert [partition.has_lists for partition in index._snapshot.partitions] == [True, True, False]
    return root


def queries() -> list[np.ndarray]:
    return [next(iter(small_documents(number, number + 1))).embeddings for number in (3, 8)]


def newest_manifest(root: Path) -> Path:
    return max((root / "manifests").iterdir())


def seal(body: bytes, format_version: int = 3) -> bytes:
    """Return the bytes of a manifest file with a valid checksum."""
    return ENVELOPE % (format_version, xxhash.xxh3_128_hexdigest(body).encode(), body)


def body_of(content: bytes) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(content)["manifest"]
    return body


def forge_body(root: Path, body: bytes) -> None:
    """Overwrite the newest manifest with a body and its valid checksum."""
    newest_manifest(root).write_bytes(seal(body))


def forge(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the newest manifest, with a valid checksum."""
    body = body_of(newest_manifest(root).read_bytes())
    change(body)
    forge_body(root, to_json(body))


def to_json(body: Any) -> bytes:
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def folders(body: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the `files` of every folder that a manifest names."""
    files = {f"codebooks/{body['codebook']['name']}": body["codebook"]["files"]}
    for info in body["partitions"]:
        files[f"partitions/{info['name']}"] = info["files"]
        if info["deletes"]:
            files[f"deletes/{info['deletes']['name']}"] = info["deletes"]["files"]
    return files


def file_info(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "xxh3": xxhash.xxh3_128_hexdigest(content)}


def replace_file(root: Path, name: str, content: bytes) -> Path:
    """Replace the content of a file or section, and its length and checksum in the newest manifest."""
    file, _, section = name.partition(f"{FILE}/")
    if section:
        file += FILE
        return replace_sections(root, file, split(root, file) | {section: content})
    path = root / name
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    folder, _, last = name.rpartition("/")
    forge(root, lambda body: folders(body)[folder].__setitem__(last, file_info(content)))
    return path


def replace_sections(
    root: Path, name: str, sections: dict[str, bytes], change: Callable[[dict[str, Any]], object] = lambda table: None
) -> Path:
    """Replace a partition's file by one of these sections, with a changed table, and the manifest's entries."""
    content, table = assemble(sections, change)

    def put_table(body: dict[str, Any]) -> None:
        next(info for info in body["partitions"] if info["name"] in name)["table"] = file_info(table)

    forge(root, put_table)
    return replace_file(root, name, content + table)


def split(root: Path, name: str) -> dict[str, bytes]:
    """Return the content of each section of a partition's file."""
    return split_content((root / name).read_bytes())


def split_content(content: bytes) -> dict[str, bytes]:
    table = json.loads(content[content.rfind(TABLE_START) :])
    return {key: content[entry["start"] : entry["start"] + entry["bytes"]] for key, entry in table.items()}


def assemble(
    sections: dict[str, bytes], change: Callable[[dict[str, Any]], object] = lambda table: None
) -> tuple[bytes, bytes]:
    """Return a partition's file without its table, and the table, changed."""
    content, table = b"", {}
    for name, section in sections.items():
        content += bytes(-len(content) % 64)
        table[name] = {"start": len(content), **file_info(section)}
        content += section
    change(table)
    return content, to_json(table)


def npy(array: np.ndarray, **settings: Any) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=(1, 0), **settings)
    return file.getvalue()


def load(root: Path, name: str) -> np.ndarray:
    """Return the array of a .npy file or a section."""
    if name.endswith(".npy"):
        array: np.ndarray = np.load(root / name)
        return array
    file, _, section = name.rpartition("/")
    return np.frombuffer(split(root, file)[section], DTYPES[section])


def dump(name: str, array: np.ndarray) -> bytes:
    """Return the content of a .npy file or a section that holds an array."""
    return npy(array) if name.endswith(".npy") else array.tobytes()


def arrays(root: Path) -> list[str]:
    """Return the names of all arrays of the newest version: files and sections."""
    names = current_files(root)
    sections = [f"{name}/{section}" for name in names if name.endswith(FILE) for section in split(root, name)]
    return [name for name in [*names, *sections] if name.endswith(".npy") or name.rpartition("/")[2] in DTYPES]


def current_files(root: Path) -> list[str]:
    """Return the names of all files of the newest version except its manifest."""
    body = body_of(newest_manifest(root).read_bytes())
    return [f"{folder}/{name}" for folder, files in folders(body).items() for name in files]
