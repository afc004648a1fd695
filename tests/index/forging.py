"""A small index with several versions, and helpers that forge its files with valid checksums, as an attacker could."""

from __future__ import annotations

import datetime
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from raycol.index import Document, Index

DIM = 8
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
    """Create an index of four versions: 12 documents in three partitions, two of them with deletes."""
    index = Index.create(root, small_documents(0, 7), bits=2, n_centroids=4, partition_tokens=9)
    index.append(small_documents(7, 12))
    index.delete(["d1"])
    index.delete(["d2", "d8"])
    assert (len(index.partitions), len(index), index.version) == (3, 9, 4)
    return root


def queries() -> list[np.ndarray]:
    return [next(iter(small_documents(number, number + 1))).embeddings for number in (3, 8)]


def newest_manifest(root: Path) -> Path:
    return max((root / "manifests").iterdir())


def seal(body: bytes, format_version: int = 2) -> bytes:
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
    """Replace a file's content, and its length and checksum in the newest manifest."""
    path = root / name
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    folder, _, last = name.rpartition("/")
    forge(root, lambda body: folders(body)[folder].__setitem__(last, file_info(content)))
    return path


def npy(array: np.ndarray, **settings: Any) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=(1, 0), **settings)
    return file.getvalue()


def current_files(root: Path) -> list[str]:
    """Return the names of all files of the newest version except its manifest."""
    body = body_of(newest_manifest(root).read_bytes())
    return [f"{folder}/{name}" for folder, files in folders(body).items() for name in files]
