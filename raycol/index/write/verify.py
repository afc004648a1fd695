"""Reading every byte of an index against its manifests."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from raycol.errors import IndexCorruptError, InputError, RaycolError
from raycol.index.format.manifest import REPORT, SERVED, manifest_name, read_manifest, versions
from raycol.storage import Files, Store


def verify_index(store: Store) -> list[str]:
    """One line for each file, of any version, that is missing, damaged, or in no manifest.

    Needs nothing of the index to be readable but its list of files: what is too damaged to be opened can be named.

    Raises:
        InputError: there is no index.
    """
    have = versions(store)
    if not have:
        read_manifest(store)  # says what stands there instead
    problems = [
        f"{store.location(manifest_name(before + 1))}: missing; expected every version from {have[0]} to {have[-1]}"
        for before, after in pairwise(have)
        if after != before + 1
    ]
    all_read = True
    folders: dict[str, Files] = {}
    for version in have:
        try:
            for folder, files in read_manifest(store, version).folders.items():
                if folders.setdefault(folder, files) != files:
                    place = store.location(manifest_name(version))
                    problems.append(f"{place}: promises other files in {folder} than the versions before it")
        except (IndexCorruptError, InputError) as error:
            problems.append(str(error))
            all_read = False
    advice = (
        "left by a writer that died or is at work, or not raycol's; raycol index vacuum removes what writers left"
        if all_read
        else "it may belong to the version whose manifest cannot be read: keep it until that is mended"
    )
    expected = {manifest_name(version) for version in have} | {REPORT, SERVED}
    for folder, files in sorted(folders.items()):
        problems += _verify_folder(store, folder, files)
        expected |= {f"{folder}/{name}" for name in files}
    problems += [f"{store.location(name)}: in no manifest ({advice})" for name in store.walk() if name not in expected]
    return problems


def _verify_folder(store: Store, folder: str, files: Files) -> Iterator[str]:
    for name, info in sorted(files.items()):
        place = store.location(f"{folder}/{name}")
        try:
            found = store.describe(f"{folder}/{name}")
        except RaycolError as error:
            yield str(error)
            continue
        if found is None:
            yield f"{place}: missing"
        elif found.bytes != info.bytes:
            yield f"{place}: {found.bytes} bytes; the manifest promises {info.bytes}"
        elif found != info:
            yield f"{place}: the checksum differs from the manifest's"
