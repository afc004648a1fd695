"""Writes an index as format version 2 had it: a file for each array, and lists with an entry a token."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import xxhash

from raycol.index import Index
from tests.index.forging import FILE, body_of, file_info, newest_manifest, npy, seal, split, to_json


def rewrite_as_version_2(root: Path) -> None:
    """Replace an index of the present format by its newest version in format version 2."""
    index = Index.open(root)
    body = body_of(newest_manifest(root).read_bytes())
    for info, partition in zip(body["partitions"], index._snapshot.partitions, strict=True):
        folder = root / "partitions" / info["name"]
        sections = split(root, f"partitions/{info['name']}/{FILE}")
        arrays = dict(partition.tokens.arrays)
        arrays |= {"offsets": partition.offsets_N, "id_bytes": partition.ids.bytes_}
        arrays["id_offsets"] = partition.ids.offsets_N.astype(np.int64)
        hashes_N = np.array([xxhash.xxh3_64_intdigest(partition.ids[n].encode()) for n in range(info["documents"])])
        arrays["id_positions"] = np.argsort(hashes_N, kind="stable").astype(np.uint32)
        arrays["id_hashes"] = np.sort(hashes_N)
        order_T = np.argsort(partition.tokens.codes_T, kind="stable")
        lengths_N = np.diff(partition.offsets_N)
        arrays["list_documents"] = np.repeat(np.arange(info["documents"], dtype=np.uint32), lengths_N)[order_T]
        sizes_K = np.bincount(partition.tokens.codes_T, minlength=index.codebook.n_centroids)
        arrays["list_offsets"] = np.cumsum([0, *sizes_K]).astype(np.uint32)
        shutil.rmtree(folder)
        folder.mkdir()
        contents = {f"{name}.npy": npy(np.ascontiguousarray(array)) for name, array in arrays.items()}
        if "metadata" in sections:
            contents["documents.parquet"] = sections["metadata"]
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        info["files"] = {name: file_info(content) for name, content in contents.items()}
        del info["table"]
    path = newest_manifest(root)
    for manifest in path.parent.iterdir():
        manifest.unlink()
    path.write_bytes(seal(to_json(body), 2))


def damage(root: Path, name: str, change: str) -> Path:
    """Damage one array of the first partition: its bytes, or with valid checksums its values."""
    path = sorted((root / "partitions").iterdir())[0] / f"{name}.npy"
    content = path.read_bytes()
    array = np.load(io.BytesIO(content)).copy()
    if change == "a bit":
        content = content[:-1] + bytes([content[-1] ^ 1])
    elif change == "a value":
        array[-1] = 0 if name.endswith("offsets") else 2**16 - 1
        content = npy(array)
    path.write_bytes(content)
    if change != "a bit":
        manifest = newest_manifest(root)
        body = body_of(manifest.read_bytes())
        next(info for info in body["partitions"] if info["name"] == path.parent.name)["files"][path.name] = file_info(
            content
        )
        manifest.write_bytes(seal(to_json(body), 2))
    return path
