"""Verify every file of an index against its manifests."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from raycol.errors import IndexCorruptError, InputError, RaycolError
from raycol.index.format.manifest import REPORT, SERVED, manifest_name, read_manifest, versions
from raycol.storage.checked_files import Files
from raycol.storage.store import Store


def verify_index(store: Store) -> list[str]:
    """Return one line for each file of any version that is missing, damaged, or in no manifest.

    Only the file listing has to be readable, so this also works on an index that is too damaged to open.

    Raises:
        InputError: no index in the store.
    """
    existing = versions(store)
    if not existing:
        read_manifest(store)  # raises the InputError that says what the store holds instead
    problems = [
        f"{store.location(manifest_name(before + 1))}: missing; expected every version from {existing[0]} "
        f"to {existing[-1]}"
        for before, after in pairwise(existing)
        if after != before + 1
    ]
    all_readable = True
    folders: dict[str, Files] = {}
    for version in existing:
        try:
            for folder, files in read_manifest(store, version).folders.items():
                if folders.setdefault(folder, files) != files:
                    manifest = store.location(manifest_name(version))
                    problems.append(f"{manifest}: promises other files in {folder} than earlier versions do")
        except (IndexCorruptError, InputError) as error:
            problems.append(str(error))
            all_readable = False
    advice = (
        "from a running or failed writer, or not raycol's; raycol index vacuum deletes files of failed writers"
        if all_readable
        else "it may belong to the version whose manifest is unreadable: keep it until that is restored"
    )
    expected = {manifest_name(version) for version in existing} | {REPORT, SERVED}
    for folder, files in sorted(folders.items()):
        problems += _verify_folder(store, folder, files)
        expected |= {f"{folder}/{name}" for name in files}
    problems += [f"{store.location(name)}: in no manifest ({advice})" for name in store.walk() if name not in expected]
    return problems


def _verify_folder(store: Store, folder: str, files: Files) -> Iterator[str]:
    for name, info in sorted(files.items()):
        path = store.location(f"{folder}/{name}")
        try:
            actual = store.describe(f"{folder}/{name}")
        except RaycolError as error:
            yield str(error)
            continue
        if actual is None:
            yield f"{path}: missing"
        elif actual.bytes != info.bytes:
            yield f"{path}: {actual.bytes} bytes; the manifest promises {info.bytes}"
        elif actual != info:
            yield f"{path}: the checksum differs from the manifest's"
