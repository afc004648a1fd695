"""Malicious indexes: all checksums are valid, but the contents are not what raycol writes."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycol.errors import IndexCorruptError, InputError
from raycol.index import Index
from raycol.index.format.columns import schema_of
from raycol.index.format.manifest import MAX_MANIFEST_BYTES
from raycol.index.write.verify import verify_index
from raycol.storage import open_store
from tests.index.forging import (
    COLUMNS,
    FILE,
    arrays,
    body_of,
    current_files,
    dump,
    forge,
    forge_body,
    load,
    newest_manifest,
    npy,
    queries,
    replace_file,
    replace_sections,
    seal,
    split,
    to_json,
)

Body = dict[str, Any]


@contextmanager
def takes_seconds() -> Iterator[None]:
    """Assert that the block takes less than 5 seconds; it takes less than 1 on an idle machine."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < 5


def use(root: Path, *, trust: bool = False) -> Any:
    """Open an index and read all kinds of its content."""
    index = Index.open(root, trust=trust)
    return (
        index.search(queries(), n_probe=2, n_rescore=2, k=2),
        index.exact(queries(), k=20),
        index.metadata(["d0", "d3", "d9"]),
        index.search(queries(), filter="n >= 3 and t like 't%' and x > 0 and day > '2020-01-02'"),
        [index.reconstruct(id_) for id_ in ("d0", "d3", "d9")],
        index.stats(),
    )


def check_refused(root: Path, match: str | None = None, trusts: Sequence[bool] = (False, True)) -> None:
    """Assert that using the index raises `IndexCorruptError` fast, with and without trust, and that `verify` works."""
    for trust in trusts:
        with takes_seconds(), pytest.raises(IndexCorruptError, match=match) as caught:
            use(root, trust=trust)
        assert len(str(caught.value)) < 1000
    with takes_seconds():
        verify_index(open_store(root))


def test_forging_without_a_change_keeps_the_manifest(root: Path) -> None:
    before = newest_manifest(root).read_bytes()
    forge(root, lambda body: None)
    assert newest_manifest(root).read_bytes() == before
    use(root)


BAD_NAMES = [
    "../x",
    "/etc/passwd",
    "a/../../b",
    "..",
    ".",
    "",
    "a/b",
    "/",
    "a\\b",
    ".hidden",
    "UPPER",
    "\u00e9",
    "a\0b",
    "a\n",
    " a",
    "a" * 101,
    "~",
    "-a",
    "con:",
    None,
    5,
    ["a"],
]


def rename_codebook(body: Body, name: Any) -> None:
    body["codebook"]["name"] = name


def rename_partition(body: Body, name: Any) -> None:
    body["partitions"][0]["name"] = name


def rename_deletes(body: Body, name: Any) -> None:
    next(info for info in body["partitions"] if info["deletes"])["deletes"]["name"] = name


def rename_file(body: Body, name: Any) -> None:
    files = body["partitions"][0]["files"]
    files[str(name)] = files.pop(FILE)


def add_file(body: Body, name: Any) -> None:
    body["codebook"]["files"][str(name)] = body["codebook"]["files"]["lows.npy"]


@pytest.mark.parametrize("rename", [rename_codebook, rename_partition, rename_deletes, rename_file, add_file])
def test_invalid_names_are_refused(root: Path, rename: Callable[[Body, Any], None]) -> None:
    whole = newest_manifest(root).read_bytes()
    for name in BAD_NAMES:
        newest_manifest(root).write_bytes(whole)
        forge(root, lambda body, name=name: rename(body, name))
        check_refused(root, r"manifests/00000004\.json: not a manifest|None: |5: |manifest does not list")


def test_a_partition_outside_the_index_is_not_opened(root: Path) -> None:
    """The partition is intact, but lies next to the index folder."""
    name = body_of(newest_manifest(root).read_bytes())["partitions"][0]["name"]
    shutil.move(root / "partitions" / name, root.parent / name)
    forge(root, lambda body: rename_partition(body, f"../../{name}"))
    check_refused(root, "not a plain file name")


def at(*path: str | int) -> Callable[[Any], Callable[[Body], None]]:
    """Return a function from a value to the change that sets a key of a manifest to it."""

    def to(value: Any) -> Callable[[Body], None]:
        def change(body: Body) -> None:
            target: Any = body
            for part in path[:-1]:
                target = target[part]
            target[path[-1]] = value

        return change

    return to


SIZES = {
    "version": at("version"),
    "dim": at("dim"),
    "bits": at("bits"),
    "partition_tokens": at("partition_tokens"),
    "n_centroids": at("codebook", "n_centroids"),
    "documents": at("partitions", 0, "documents"),
    "tokens": at("partitions", 0, "tokens"),
    "id_bytes": at("partitions", 0, "id_bytes"),
    "bytes": at("partitions", 0, "files", FILE, "bytes"),
    "bytes of the table": at("partitions", 0, "table", "bytes"),
    "bytes of the codebook": at("codebook", "files", "lows.npy", "bytes"),
    "deleted documents": at("partitions", 0, "deletes", "documents"),
}
BAD_NUMBERS = [-1, 0, 7, 2**30, 2**40, 2**47, 2**48, 2**52, 2**60, 2**64, 10**400, 8.5, -0.5, True, None, "8", [], {}]


@pytest.mark.parametrize("change", SIZES.values(), ids=SIZES.keys())
def test_manifest_values_out_of_range_are_refused(root: Path, change: Callable[[Any], Callable[[Body], None]]) -> None:
    whole = newest_manifest(root).read_bytes()
    for number in BAD_NUMBERS:
        newest_manifest(root).write_bytes(whole)
        forge(root, change(number))
        if body_of(newest_manifest(root).read_bytes()) != body_of(whole) and not is_harmless(change, number):
            check_refused(root)


def is_harmless(change: Callable[[Any], Callable[[Body], None]], number: Any) -> bool:
    """Whether only writers use the value."""
    return change is SIZES["partition_tokens"] and type(number) is int and 1 <= number < 2**31


CHANGES: dict[str, Callable[[Body], object]] = {
    "all sizes absurd": lambda body: body.update(
        dim=65536,
        codebook=body["codebook"] | {"n_centroids": 2**30},
        partitions=[body["partitions"][0] | {"documents": 2**40, "tokens": 2**32 - 1, "id_bytes": 2**47}],
    ),
    "a float for a count": lambda body: at("partitions", 0, "documents")(float(body["partitions"][0]["documents"]))(
        body
    ),
    "a float for a length": lambda body: at("codebook", "files", "lows.npy", "bytes")(160.0)(body),
    "a string for a length": lambda body: at("codebook", "files", "lows.npy", "bytes")("160")(body),
    "a string for the dimensions": at("dim")("8"),
    "a string for the seed": at("seed")("0"),
    "a bool for the seed": at("seed")(True),
    "an error beyond 2": at("codebook", "error")(2.5),
    "a negative error": at("partitions", 0, "error")(-0.1),
    "NaN": at("codebook", "error")(float("nan")),
    "infinity": at("partitions", 0, "error")(float("inf")),
    "a pool factor of NaN": at("pool_factor")(float("nan")),
    "a pool factor of infinity": at("pool_factor")(float("inf")),
    "a pool factor below 1": at("pool_factor")(0.5),
    "an unknown key": at("surprise")(1),
    "an unknown key in the codebook": at("codebook", "surprise")(1),
    "an unknown key in a partition": at("partitions", 0, "surprise")(1),
    "an unknown key in deletes": at("partitions", 0, "deletes", "surprise")(1),
    "an unknown key in a file": at("codebook", "files", "lows.npy", "surprise")(1),
    "an unknown key in the model": at("model")({"name": "a", "fingerprint": "b", "revision": "c"}),
    "a checksum of letters": at("codebook", "files", "lows.npy", "xxh3")("g" * 32),
    "a checksum in upper case": at("codebook", "files", "lows.npy", "xxh3")("A" * 32),
    "a short checksum": at("codebook", "files", "lows.npy", "xxh3")("a" * 31),
    "a checksum and a line end": at("codebook", "files", "lows.npy", "xxh3")("a" * 32 + "\n"),
    "another checksum": at("codebook", "files", "lows.npy", "xxh3")("0" * 32),
    "no files": at("partitions", 0, "files")({}),
    "a reference": at("codebook")({"$ref": "#/codebook"}),
    "a reference among files": at("partitions", 0, "files", "$ref")("#/partitions/0/files"),
    "one partition twice": lambda body: body["partitions"].append(body["partitions"][0]),
    "deletes of two partitions in one": lambda body: body["partitions"][2].update(
        deletes=body["partitions"][0]["deletes"]
    ),
    "partitions in a map": lambda body: body.update(partitions=dict(enumerate(body["partitions"]))),
    "a list for a partition": at("partitions", 0)([]),
    "null for the codebook": at("codebook")(None),
    "a column that is no type": at("columns", "n")("int32"),
    "a column without a name": at("columns", "")("int64"),
    "a column called id": at("columns", "id")("string"),
    "a column with a zero": at("columns", "a\0")("string"),
    "a column too long": at("columns", "a" * 201)("string"),
    "columns in a list": at("columns")(["n"]),
    "a column too many": at("columns", "more")("string"),
    "a column too few": lambda body: body["columns"].pop("n"),
    "columns in another order": lambda body: body.update(columns=dict(reversed(body["columns"].items()))),
    "a column of another type": at("columns", "n")("string"),
    "a model that is a name": at("model")("gte"),
    "tuned to no lists": at("tuned")({"n_probe": 0, "n_rescore": 16}),
    "tuned to half a document": at("tuned")({"n_probe": 4, "n_rescore": 0.5}),
    "tuned past 31 bits": at("tuned")({"n_probe": 4, "n_rescore": 2**31}),
    "tuned to a name": at("tuned")("fast"),
    "tuned by halves": at("tuned")({"n_probe": 4}),
    "more deleted than there": at("partitions", 0, "deletes", "documents")(1000),
    "more deleted tokens than there": at("partitions", 0, "deletes", "tokens")(1000),
    "another partition's folder": lambda body: at("partitions", 0, "name")(body["partitions"][2]["name"])(body),
    "the codebook's folder for a partition": lambda body: at("partitions", 0, "name")(body["codebook"]["name"])(body),
    "twice the dimensions, half the bits": at("dim")(16),
    "other bits": at("bits")(4),
    "another version": at("version")(3),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_hostile_manifest_is_refused(root: Path, change: Callable[[Body], object]) -> None:
    forge(root, change)
    check_refused(root)


def test_tuned_settings_beyond_the_index_search_all_documents(root: Path) -> None:
    for n_rescore in (1, 2**31 - 1):
        forge(root, at("tuned")({"n_probe": 2**31 - 1, "n_rescore": n_rescore}))
        with takes_seconds():
            index = Index.open(root)
            assert index.search(queries(), k=20) == index.exact(queries(), k=20)
            assert [len(hits) for hits in index.search(queries(), k=2)] == [2, 2]


def test_a_listed_file_that_is_missing_is_refused(root: Path) -> None:
    forge(root, at("partitions", 0, "files", "more.npy")({"bytes": 1, "xxh3": "0" * 32}))
    check_refused(root, r"more\.npy", trusts=[False])


def test_a_missing_key_is_refused(root: Path) -> None:
    whole = body_of(newest_manifest(root).read_bytes())
    optional = {("pool_factor",), ("tuned",), ("split",), ("partitions", 0, "deletes")}
    for path in sorted(paths_of(whole), key=str):
        if path not in optional:
            body = json.loads(to_json(whole))
            target: Any = body
            for part in path[:-1]:
                target = target[part]
            del target[path[-1]]
            forge_body(root, to_json(body))
            check_refused(root)


def test_versions_that_disagree_about_a_file_are_reported(root: Path) -> None:
    """Two versions share a partition, but list different checksums for one of its files."""
    newest = newest_manifest(root)
    body = body_of(newest.read_bytes())
    older = newest.with_name("00000003.json")
    at("partitions", 0, "files", FILE, "xxh3")("0" * 32)(body)
    older.write_bytes(seal(to_json(body | {"version": 3})))
    with pytest.raises(IndexCorruptError, match=r"partition\.bin"):
        Index.open(root, version=3).search(queries())
    assert any("00000003.json" in line or FILE in line for line in verify_index(open_store(root)))


def paths_of(body: Body) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of every key, except those within the entries of most files."""
    yield from ((key,) for key in body)
    yield from (("codebook", key) for key in body["codebook"])
    yield from (("partitions", 0, key) for key in body["partitions"][0])
    yield from (("partitions", 0, "deletes", key) for key in body["partitions"][0]["deletes"])
    yield from (("codebook", "files", name) for name in body["codebook"]["files"])
    yield from (("partitions", 0, "files", name) for name in body["partitions"][0]["files"])
    yield from (("codebook", "files", "lows.npy", key) for key in ("bytes", "xxh3"))


BODIES = {
    "nothing": b"",
    "null": b"null",
    "a number": b"1",
    "a list": b"[]",
    "an empty map": b"{}",
    "no JSON": b"{'version': 1}",
    "two": b"{}{}",
    "no UTF-8": b'{"version":"\xff"}',
    "a lone surrogate": b'{"version":"\\ud800"}',
    "a zero": b'{"version":"\0"}',
    "NaN": b'{"version":NaN}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "deep lists": b"[" * 100_000 + b"]" * 100_000,
    "deep maps": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "open lists": b"[" * 1_000_000,
    "digits": b'{"version":' + b"9" * 1_000_000 + b"}",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_an_invalid_manifest_body_is_refused(root: Path, body: bytes) -> None:
    forge_body(root, body)
    check_refused(root, r"00000004\.json: not a manifest")


ENVELOPES = {
    "empty": b"",
    "zeros": b"\0" * 100,
    "body alone": b'{"version":1}',
    "no checksum": b'{"format":"raycol-index","format_version":3,"manifest":{}}\n',
    "a format version too long": b'{"format":"raycol-index","format_version":99999999999,"checksum":"","manifest":{}}',
    "a negative format version": b'{"format":"raycol-index","format_version":-2,"checksum":"","manifest":{}}\n',
    "another format": b'{"format":"other-index","format_version":3,"checksum":"","manifest":{}}\n',
    "a checksum in upper case": seal(b"{}").replace(seal(b"{}")[53:85], seal(b"{}")[53:85].upper()),
    "two": seal(b"{}") * 2,
    "no line end": seal(b"{}")[:-1],
    "carriage returns": seal(b"{}").replace(b"\n", b"\r\n"),
    "no zeros before the version": seal(b"{}").replace(b":3,", b":03,"),
    "sealed twice": seal(seal(b"{}")),
    "pickled": b"\x80\x04K\x01.",
}


@pytest.mark.parametrize("content", ENVELOPES.values(), ids=ENVELOPES.keys())
def test_an_invalid_envelope_is_refused(root: Path, content: bytes) -> None:
    newest_manifest(root).write_bytes(content)
    check_refused(root, r"00000004\.json: ")


@pytest.mark.parametrize("version", [0, 1, 2, 99, 999_999_999])
def test_another_format_version_is_named_despite_invalid_content(root: Path, version: int) -> None:
    older = {0: "Build the index again", 1: "Build the index again", 2: "Rewrite it with: raycol index migrate"}
    advice = older.get(version, "Use a newer raycol")
    for content in (seal(b"{}", version), seal(b"{}", version)[:60], seal(b"{}", version) + b"\0" * 1000):
        newest_manifest(root).write_bytes(content)
        with (
            takes_seconds(),
            pytest.raises(InputError, match=f"format version {version}; expected version 3. {advice}"),
        ):
            Index.open(root)
        assert any("format version" in line for line in verify_index(open_store(root)))


def huge_body(
    whole: Body, change: Callable[[Any], Callable[[Body], None]], start: bytes, item: bytes, end: bytes
) -> bytes:
    """Return a body of the maximal length of a manifest, with one value replaced by a long list of items."""
    change("@")(whole)
    text = to_json(whole)
    available = MAX_MANIFEST_BYTES - len(text) - len(start) - len(end) - 200
    plain = b"%" not in item
    count = available // (len(item if plain else item % 0) + 1)
    items = b",".join([item] * count if plain else (item % number for number in range(count)))
    return text.replace(b'"@"', start + items + end)


PARTITIONS, FILES, COLUMN_TYPES, SEED = at("partitions"), at("codebook", "files"), at("columns"), at("seed")
PARTITION = (
    b'{"name":"%%07x","documents":1,"tokens":1,"id_bytes":1,"error":0,"files":{},"table":{"bytes":2,"xxh3":"%s"}}'
    % (b"0" * 32)
)
HUGE = {
    "numbers for partitions": (PARTITIONS, b"[", b"0", b"]"),
    "lists for partitions": (PARTITIONS, b"[", b"[]", b"]"),
    "nested lists for partitions": (PARTITIONS, b"[", b"[" * 100 + b"]" * 100, b"]"),
    "maps for partitions": (PARTITIONS, b"[", b"{}", b"]"),
    "numbers far apart for partitions": (PARTITIONS, b"[", b"0" + b" " * 15, b"]"),
    "maps far apart for partitions": (PARTITIONS, b"[", b"{}" + b" " * 30, b"]"),
    "good partitions": (PARTITIONS, b"[", PARTITION, b"]"),
    "one partition": (PARTITIONS, b"[", PARTITION % 0, b"]"),
    "numbers for files": (FILES, b"{", b'"%07x":0', b"}"),
    "numbers far apart for files": (FILES, b"{", b'"%014x":0', b"}"),
    "good files": (FILES, b"{", b'"%07x":{"bytes":1,"xxh3":"00000000000000000000000000000000"}', b"}"),
    "one file": (FILES, b"{", b'"":0', b"}"),
    "numbers for columns": (COLUMN_TYPES, b"{", b'"%07x":0', b"}"),
    "good columns": (COLUMN_TYPES, b"{", b'"%07x":"bool"', b"}"),
    "unknown keys": (SEED, b"0,", b'"%07x":0', b""),
    "one unknown key": (SEED, b"0,", b'"a":0', b""),
    "one key": (SEED, b"0,", b'"seed":0', b""),
    "a long name": (at("codebook", "name"), b'"', b"aaaaaaaaaaaaaaa", b'"'),
    "a long type": (at("columns", "n"), b'"', b"aaaaaaaaaaaaaaa", b'"'),
}


def open_and_measure(root: Path, sender: Connection) -> None:
    """Send the result of opening an index, the seconds and the megabytes it took. Runs in a separate process."""
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    before, start = peak_memory(), time.monotonic()
    try:
        Index.open(root)
        outcome = "opened"
    except IndexCorruptError as error:
        outcome = str(error)
    sender.send((outcome, time.monotonic() - start, peak_memory() - before))


def peak_memory() -> int:
    """Return the peak memory of this process in MiB."""
    match = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert match
    return int(match[1]) >> 10


def check_costs_little(root: Path) -> str:
    """Assert that opening the index, or failing to, takes little time and memory; return the outcome."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=open_and_measure, args=(root, sender))
    process.start()
    sender.close()
    process.join(100)
    process.kill()
    newest_manifest(root).unlink()
    assert process.exitcode == 0
    outcome, seconds, megabytes = receiver.recv()
    assert len(outcome) < 1000
    assert seconds < 5, "takes less than 1 on an idle machine"
    assert megabytes < 300
    return str(outcome)


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads peak memory from /proc")


@pytest.mark.slow
@linux
@pytest.mark.parametrize("kind", HUGE)
def test_a_manifest_of_maximal_length_costs_little(root: Path, kind: str) -> None:
    forge_body(root, huge_body(body_of(newest_manifest(root).read_bytes()), *HUGE[kind]))
    assert newest_manifest(root).stat().st_size <= MAX_MANIFEST_BYTES
    check_costs_little(root)


@pytest.mark.slow
@linux
@pytest.mark.parametrize("kind", ["sparse", "brackets", "sealed brackets"])
def test_a_manifest_over_the_length_limit_costs_little(root: Path, kind: str) -> None:
    if kind == "sealed brackets":
        forge_body(root, b"[" * (200 << 20))
    else:
        with newest_manifest(root).open("wb") as file:
            file.write(b"" if kind == "sparse" else b"[" * (200 << 20))
            file.truncate(1 << 30)
    assert "not a manifest (longer than" in check_costs_little(root)


def array_files(root: Path, *, once: bool = False) -> list[str]:
    """Return the names of the newest version's arrays; with `once`, one of each kind."""
    return list({name.rpartition("/")[2]: name for name in arrays(root)}.values()) if once else arrays(root)


def in_message(name: str) -> str:
    """Pattern of the name of a file or section, as messages have it."""
    # Lists of another length do not fit their offsets.
    return re.escape(
        name.replace(f"{FILE}/", f"{FILE}: section ").removesuffix("s" if name.endswith("lists") else "-")
    )


def other_order(dtype: np.dtype) -> np.dtype:
    return dtype.newbyteorder(">") if dtype.itemsize > 1 else np.dtype(np.int8)


REWRITES: dict[str, Callable[[np.ndarray], bytes]] = {
    "one more": lambda array: npy(np.concatenate([array, array[-1:]])),
    "one fewer": lambda array: npy(array[:-1]),
    "none": lambda array: npy(array[:0]),
    "doubles": lambda array: npy(array.astype(np.float64)),
    "bytes": lambda array: npy(np.frombuffer(array.tobytes(), np.int8)),
    "text": lambda array: npy(array.astype("S8")),
    "objects": lambda array: npy(array.astype(object), allow_pickle=True),
    "records": lambda array: npy(array.view([("a", array.dtype)])),
    "the other byte order": lambda array: npy(array.astype(other_order(array.dtype))),
    "one more dimension": lambda array: npy(array[..., None]),
    "one value": lambda array: npy(np.array(array.ravel()[0])),
    "version 2": lambda array: b"\x93NUMPY\x02\x00" + npy(array)[8:],
    "another magic": lambda array: b"\x93NUMPX" + npy(array)[6:],
    "a zip": lambda array: b"PK\x03\x04" + npy(array)[4:],
    "a header in Python": lambda array: npy(array).replace(b"'fortran_order'", b"exit(3) or 'fo'"),
    "a header beyond the file": lambda array: npy(array)[:8] + b"\xff\xff" + npy(array)[10:],
    "Fortran order": lambda array: npy(array).replace(b"False", b"True "),
    "no header": lambda array: array.tobytes(),
    "nothing": lambda array: b"",
    "garbage": lambda array: np.random.default_rng(0).bytes(len(npy(array))),
}


@pytest.mark.parametrize("rewrite", REWRITES.values(), ids=REWRITES.keys())
def test_a_rewritten_array_is_refused(root: Path, rewrite: Callable[[np.ndarray], bytes]) -> None:
    for name in array_files(root, once=True):
        array = load(root, name)
        whole, changed = dump(name, array), rewrite(array)
        if is_section := not name.endswith(".npy"):
            changed = changed[len(npy(array)) - array.nbytes :]  # it has no header
        if changed == whole:
            continue
        replace_file(root, name, changed)
        if is_section and len(changed) == len(whole):  # may be valid values
            with suppress(IndexCorruptError):
                use(root)
        else:
            check_refused(root, in_message(name))
        replace_file(root, name, whole)
    use(root)


def test_a_pickle_is_never_loaded(root: Path) -> None:
    marker = root.parent / "marker"
    payload = b"cos\nmkdir\n(S'%s'\ntR." % bytes(marker)
    for name in array_files(root, once=True):
        array = load(root, name)
        whole = dump(name, array)
        header = npy(array.astype(object), allow_pickle=True)[:128]
        for content in (header + payload, payload, (header + payload).ljust(len(whole), b"\0")):
            replace_file(root, name, content)
            if len(content) == len(whole) and not name.endswith(".npy"):  # may be valid values
                with suppress(IndexCorruptError):
                    use(root)
            else:
                check_refused(root, in_message(name))
        replace_file(root, name, whole)
    replace_file(root, table_name(root), payload)
    check_refused(root, in_message(table_name(root)))
    assert not marker.exists()


def put(index: int, value: Any) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        flat = array.ravel().copy()
        with np.errstate(over="ignore"):
            flat[index] = np.array(value).astype(array.dtype)
        return flat.reshape(array.shape)

    return change


# Invalid values in arrays of the right dtype and shape: the file and the change.
CONTENTS: list[tuple[str, Callable[[np.ndarray], np.ndarray]]] = [
    *(
        (name, change)
        for name in ("offsets", "id_offsets")
        for change in (
            put(0, 1),
            put(0, -1),
            put(1, 0),
            put(1, -(2**63)),
            put(1, 2**62),
            put(-1, 2**40),
            put(-1, 0),
            put(-2, 2**31),
            lambda array: array[::-1].copy(),
            lambda array: array + 1,
            np.zeros_like,
            lambda array: np.full(array.shape, -1),
        )
    ),
    ("list_offsets", put(0, 1)),
    ("list_offsets", put(1, 2**32 - 1)),
    ("list_offsets", put(-1, 2**31)),
    ("list_offsets", put(-1, 0)),
    ("list_offsets", lambda array: array[::-1].copy()),
    ("list_offsets", lambda array: array + 1),
    ("codes", put(0, 4)),
    ("codes", put(-1, 2**16 - 1)),
    # Entries of one byte are below 224; 224 .. 255 begin longer ones (docs/index-format.md).
    ("lists", put(-1, 224)),
    ("lists", put(-1, 254)),
    ("lists", put(-1, 255)),
    ("lists", put(0, 223)),
    ("lists", lambda array: np.resize([253, 255], array.shape)),
    ("lists", lambda array: np.resize([254, 255, 255], array.shape)),
    ("lists", lambda array: np.resize([254, 0, 0], array.shape)),
    ("lists", lambda array: array + 100),
    ("lists", lambda array: np.full_like(array, 255)),
    ("id_positions", put(0, 2**32 - 1)),
    ("id_positions", put(-1, 2**31)),
    ("id_positions", lambda array: array + 1),
    ("id_bytes", put(0, 0xFF)),
    ("id_bytes", put(0, 0x80)),
    ("id_bytes", put(-1, 0xC3)),
    ("positions.npy", put(-1, 2**32 - 1)),
    ("positions.npy", put(-1, 2**31)),
    ("positions.npy", lambda array: np.full_like(array, 2**32 - 1)),
    *(
        (name, put(0, value))
        for name in ("centroids.npy", "lows.npy", "steps.npy")
        for value in (np.nan, np.inf, -np.inf)
    ),
    *(("scales", put(-1, value)) for value in (np.nan, np.inf, -np.inf)),
    *((name, put(0, value)) for name in ("lows.npy", "steps.npy") for value in (3e38, -3e38)),
    ("centroids.npy", put(0, 60000)),
]


@pytest.mark.parametrize(("file", "change"), CONTENTS, ids=[f"{number}-{c[0]}" for number, c in enumerate(CONTENTS)])
def test_array_values_out_of_range_are_refused(
    root: Path, file: str, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    for name in (name for name in array_files(root) if name.endswith(f"/{file}")):
        array = load(root, name)
        with np.errstate(over="ignore"):
            replace_file(root, name, dump(name, change(array).astype(array.dtype)))
        check_refused(root, name.rpartition("/")[0])
        replace_file(root, name, dump(name, array))


@pytest.mark.parametrize("positions", [[1, 0], [0, 0], [3, 2], [1, 1]])
def test_deletes_out_of_order_are_refused(root: Path, positions: list[int]) -> None:
    body = body_of(newest_manifest(root).read_bytes())
    deletes = next(info["deletes"] for info in body["partitions"] if info["deletes"])
    deletes |= {"documents": 2, "tokens": 2}
    forge_body(root, to_json(body))
    name = f"deletes/{deletes['name']}/positions.npy"
    replace_file(root, name, npy(np.array(positions, dtype=np.uint32)))
    check_refused(root, name)


def test_a_character_split_between_two_ids_is_refused(root: Path) -> None:
    """The concatenated ids are valid UTF-8, but the two ids are not."""
    name = next(name for name in array_files(root) if name.endswith("/id_bytes"))
    array = load(root, name).copy()
    stop = int(load(root, name.replace("bytes", "offsets"))[1])
    array[stop - 1 : stop + 1] = np.frombuffer("é".encode(), np.uint8)
    replace_file(root, name, dump(name, array))
    check_refused(root, in_message(name))


def parquet(table: pa.Table, **settings: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **{"store_schema": False} | settings)
    return sink.getvalue()


def with_column(table: pa.Table, name: str, array: pa.Array, field: pa.Field | None = None) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), field or name, array)


def raw_text(values: list[bytes]) -> pa.Array:
    """Return a string array without checking that the values are UTF-8."""
    return pa.array(values, pa.binary()).view(pa.string())


def shifted(table: pa.Table, name: str, value: int) -> pa.Table:
    type_ = table.schema.field(name).type
    plain = pa.int32() if type_ == pa.date32() else pa.int64()
    return with_column(table, name, pa.array([value] * len(table), plain).cast(type_))


TABLES: dict[str, Callable[[pa.Table], bytes]] = {
    "a row fewer": lambda table: parquet(table.slice(1)),
    "a row more": lambda table: parquet(pa.concat_tables([table, table.slice(0, 1)])),
    "smaller row groups": lambda table: parquet(table, row_group_size=1),
    "no rows": lambda table: parquet(table.slice(0, 0)),
    "a column fewer": lambda table: parquet(table.drop_columns(["n"])),
    "no columns": lambda table: parquet(table.select([])),
    "a column more": lambda table: parquet(table.append_column("more", table.column("n"))),
    "a column twice": lambda table: parquet(table.append_column("n", table.column("n"))),
    "another name": lambda table: parquet(table.rename_columns(["m", *table.column_names[1:]])),
    "another order": lambda table: parquet(table.select(table.column_names[::-1])),
    "another type": lambda table: parquet(with_column(table, "n", table.column("n").cast(pa.int32()))),
    "text for numbers": lambda table: parquet(with_column(table, "n", table.column("n").cast(pa.string()))),
    "binary for text": lambda table: parquet(with_column(table, "t", table.column("t").cast(pa.binary()))),
    "no null": lambda table: parquet(
        with_column(table, "n", table.column("n"), pa.field("n", pa.int64(), nullable=False))
    ),
    "lists": lambda table: parquet(with_column(table, "n", pa.array([[1]] * len(table)))),
    "maps": lambda table: parquet(with_column(table, "n", pa.array([{"a": 1}] * len(table)))),
    "another unit": lambda table: parquet(
        with_column(table, "at", table.column("at").cast(pa.timestamp("ms", "UTC")))
    ),
    "no time zone": lambda table: parquet(with_column(table, "at", table.column("at").cast(pa.timestamp("us")))),
    "text that is no UTF-8": lambda table: parquet(with_column(table, "t", raw_text([b"t\xff\xfe"] * len(table)))),
    "a date beyond Python": lambda table: parquet(shifted(table, "day", 2**31 - 1)),
    "a date before Python": lambda table: parquet(shifted(table, "day", -(2**31))),
    "a time beyond Python": lambda table: parquet(shifted(table, "at", 2**63 - 1)),
    "a time before Python": lambda table: parquet(shifted(table, "at", -(2**63))),
    "an extension type": lambda table: parquet(
        with_column(
            table, "n", pa.ExtensionArray.from_storage(pa.opaque(pa.int64(), "a", "b"), pa.array(range(len(table))))
        ),
        store_schema=True,
    ),
    "an Arrow file": lambda table: arrow_file(table),
    "a footer beyond the file": lambda table: parquet(table)[:-8] + b"\xff\xff\xff\x7fPAR1",
    "a footer of no length": lambda table: parquet(table)[:-8] + b"\0\0\0\0PAR1",
    "an encrypted footer": lambda table: parquet(table)[:-4] + b"PARE",
    "cut at the end": lambda table: parquet(table)[:-1],
    "cut at the start": lambda table: parquet(table)[1:],
    "no pages": lambda table: (
        parquet(table)[:4] + b"\0" * (len(parquet(table)) // 2) + parquet(table)[4 + len(parquet(table)) // 2 :]
    ),
    "magic only": lambda table: b"PAR1PAR1",
    "garbage": lambda table: np.random.default_rng(0).bytes(2000),
    "nothing": lambda table: b"",
}


def arrow_file(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def table_name(root: Path) -> str:
    return next(f"{name}/metadata" for name in current_files(root) if name.endswith(FILE))


def read_table(root: Path) -> pa.Table:
    file, _, section = table_name(root).rpartition("/")
    return pq.read_table(io.BytesIO(split(root, file)[section]))


@pytest.mark.parametrize("rewrite", TABLES.values(), ids=TABLES.keys())
def test_a_rewritten_table_is_refused(root: Path, rewrite: Callable[[pa.Table], bytes]) -> None:
    name = table_name(root)
    replace_file(root, name, rewrite(read_table(root)))
    check_refused(root, in_message(name))


def test_a_table_of_another_writer_with_the_right_schema_is_read(root: Path) -> None:
    name = table_name(root)
    table = read_table(root)
    assert table.schema.equals(
        schema_of(dict(zip(COLUMNS, ("int64", "string", "double", "bool", "date", "timestamp"), strict=True)))
    )
    before = use(root)[2]
    for settings in ({"compression": "none"}, {"use_dictionary": False}, {"write_statistics": False}):
        replace_file(root, name, parquet(table, **settings))
        assert use(root)[2] == before


def test_metadata_without_a_table_is_refused(root: Path) -> None:
    name, _, section = table_name(root).rpartition("/")
    sections = split(root, name)
    del sections[section]
    replace_sections(root, name, sections)
    check_refused(root, r"partition\.bin: has no section metadata")


TABLES_OF_SECTIONS: dict[str, Callable[[Body], object]] = {
    "a section before the file": lambda table: table["codes"].update(start=-64),
    "a section beyond the file": lambda table: table["codes"].update(start=2**40),
    "a section that reaches into the table": lambda table: table["metadata"].update(bytes=2**20),
    "a start between cache lines": lambda table: table["residuals"].update(start=table["residuals"]["start"] + 1),
    "a start that is a float": lambda table: table["codes"].update(start=0.0),
    "a start that is a string": lambda table: table["codes"].update(start="0"),
    "a length that is no number": lambda table: table["codes"].update(bytes=None),
    "a shorter section": lambda table: table["scales"].update(bytes=table["scales"]["bytes"] - 2),
    "no section": lambda table: table.clear(),
    "no codes": lambda table: table.pop("codes"),
    "no offsets of lists": lambda table: table.pop("list_offsets"),
    "a section less": lambda table: table.pop("id_hashes"),
    "an unknown key": lambda table: table["codes"].update(surprise=1),
    "a key less": lambda table: table["codes"].pop("xxh3"),
    "a list for a section": lambda table: table.update(codes=[0, 0, ""]),
    "a bad name": lambda table: table.update({"../codes": table["codes"]}),
}


@pytest.mark.parametrize("change", TABLES_OF_SECTIONS.values(), ids=TABLES_OF_SECTIONS.keys())
def test_a_hostile_table_of_sections_is_refused(root: Path, change: Callable[[Body], object]) -> None:
    name = next(name for name in current_files(root) if name.endswith(FILE))
    replace_sections(root, name, split(root, name), change)
    check_refused(root, name, trusts=[False])


def test_sections_that_are_read_alone_have_their_own_checksums(root: Path) -> None:
    name = next(name for name in current_files(root) if name.endswith(FILE))
    sections = split(root, name)
    for section in ("id_bytes", "metadata"):
        replace_sections(root, name, sections, lambda table, section=section: table[section].update(xxh3="0" * 32))
        with pytest.raises(IndexCorruptError, match=f"the checksum of section {section} differs"):
            Index.open(root).metadata(["d0"])


def test_sections_that_a_reader_does_not_know_are_ignored(root: Path) -> None:
    """A later raycol may add one."""
    before = use(root)[:4]
    name = next(name for name in current_files(root) if name.endswith(FILE))
    replace_file(root, f"{name}/patches", b"something new")
    assert use(root)[:4] == before


@pytest.mark.slow
@pytest.mark.parametrize("total", [500, pytest.param(10_000, marks=pytest.mark.long)])
def test_mutants_give_results_or_an_error(tmp_path: Path, total: int) -> None:
    """Runs in subprocesses, to detect crashes. The docstring of `fuzz_worker` explains how to reproduce one."""
    memory = Path("/dev/shm")
    seed, n_workers = 0, 1 if total < 1000 else 2
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as folder:
        workers = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-W",
                    "ignore",
                    "-m",
                    "tests.index.fuzz_worker",
                    folder,
                    str(seed),
                    str(start),
                    str(stop),
                ],
                cwd=Path(__file__).parents[2],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for start, stop in pairwise(range(0, total + 1, total // n_workers))
        ]
        outputs = [worker.communicate(timeout=500) for worker in workers]
    for worker, (out, err) in zip(workers, outputs, strict=True):
        last = out.splitlines()[-1:]
        assert worker.returncode == 0, f"seed {seed}, ended by {worker.returncode} at {last}:\n{err[-5000:]}"
