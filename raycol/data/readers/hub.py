"""Read Hugging Face datasets: from the hub (hf:NAME), or from a folder written by `save_to_disk`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

from raycol.data.files import HUB, folder_state, reading
from raycol.data.readers.parquet import rows_of
from raycol.data.readers.reader import CorpusFile, InferNames, Position, Reader, Rows, Select
from raycol.errors import InputError, reason_of

if TYPE_CHECKING:
    import datasets

_ROWS = 512


class DatasetReader(Reader):
    """Reader of datasets, which the location names, not a suffix."""

    suffixes = ()
    is_table = True
    has_columns = True

    def rows(self, file: CorpusFile, select: Select, infer_names: InferNames, start: Position) -> Rows:
        """See `Reader`. Raises `InputError` also if there are several splits and none is selected."""
        dataset = open_dataset(file)
        names = select(dataset.column_names)
        if not names:  # selecting no columns from a table would drop its rows
            yield from ((Position(number, number + 1), {}) for number in range(start.offset, len(dataset)))
            return
        table = dataset.select_columns(names).with_format("arrow")
        for first in range(start.offset, len(dataset), _ROWS):
            with reading(file):
                part = table[first : first + _ROWS]
                part.validate(full=True)  # reading follows the offsets of a damaged file unchecked
            for batch in part.combine_chunks().to_batches():
                yield from rows_of(batch, file, first)
                first += batch.num_rows

    def count(self, file: CorpusFile) -> int:
        """See `Reader`."""
        return len(open_dataset(file))

    def sample(self, file: CorpusFile, offsets: Sequence[int]) -> list[Position]:
        """See `Reader`."""
        return [Position(row, row + 1) for row in offsets]

    def state(self, file: CorpusFile) -> str:
        """See `Reader`."""
        # The fingerprint of a hub dataset covers the configuration and the data files that the builder resolved. That
        # of a folder hashes the arguments of `map`, so it misses a function that returns other embeddings.
        is_hub = file.uri.startswith(HUB)
        copy = _copy_state(file.uri) if is_hub else folder_state(file.uri, "*")
        state = copy or open_dataset(file)._fingerprint
        return f"{file.subset} {file.split} {state}"


def open_dataset(file: CorpusFile) -> datasets.Dataset:
    """Open one split of a dataset."""
    loaded = _load(file)
    if not isinstance(loaded, dict):
        if file.split:
            raise InputError(f"{file}: has no splits; leave `split=` out")
        return loaded
    splits = list(loaded)
    split = file.split or (splits[0] if len(splits) == 1 else None)
    if split not in splits:
        problem = f"no split {file.split!r}" if file.split else "several splits"
        raise InputError(f"{file}: {problem}; choose one of {', '.join(splits)} with `split=`")
    return loaded[split]


def splits_of(file: CorpusFile) -> list[str]:
    """Splits of a dataset, or of one subset; empty if it has none. Raises `InputError` if it cannot be opened."""
    loaded = _load(file)
    return list(loaded) if isinstance(loaded, dict) else []


def subsets_of(uri: str) -> tuple[str, ...]:
    """Subsets of a hub dataset; empty if they cannot be listed."""
    import datasets

    name = uri.removeprefix(HUB)
    try:
        subsets = datasets.get_dataset_config_names(name)
    except Exception:  # opening the dataset reports the error
        return ()
    # Without the hub, the library opens the subsets in its cache, but does not list them.
    return tuple((subsets == ["default"] and _cached_subsets(name)) or subsets)


def _cached_subsets(name: str) -> list[str]:
    """Subsets of a hub dataset in the cache of the datasets library, sorted."""
    import datasets
    from datasets.naming import camelcase_to_snakecase

    *namespace, last = name.split("/")
    folder = "___".join([*namespace, camelcase_to_snakecase(last)])
    return sorted(path.name for path in Path(datasets.config.HF_DATASETS_CACHE, folder).glob("*/") if path.is_dir())


def _load(file: CorpusFile) -> datasets.Dataset | datasets.DatasetDict:
    if file.uri.startswith(HUB):
        return _load_cached(file.uri, file.subset, _copy_state(file.uri))
    if file.subset:
        raise InputError(f"{file}: a folder has no subsets; leave `subset=` out")
    return _load_cached(file.uri, None, folder_state(file.uri, "*.json"))  # reopen if the folder was overwritten


def _copy_state(uri: str) -> str:
    """Hash of the path and the state of a local copy of a hub dataset; empty if the dataset is on the hub."""
    path = uri.removeprefix(HUB)
    if not os.path.isdir(path):
        return ""
    return str(xxhash.xxh3_64_hexdigest(os.fsencode(f"{os.path.abspath(path)} {folder_state(path, '*')}")))


@lru_cache(maxsize=4)
def _load_cached(uri: str, subset: str | None, state: str) -> datasets.Dataset | datasets.DatasetDict:
    """Open a dataset. Cached, since a build reads many parts of it."""
    import datasets

    try:
        if uri.startswith(HUB):
            # The library's cache knows a copy by the folder's name and README only: each needs a cache of its own.
            cache = os.path.join(datasets.config.HF_DATASETS_CACHE, state) if state else None
            return datasets.load_dataset(uri.removeprefix(HUB), subset, cache_dir=cache)
        return datasets.load_from_disk(uri)
    except Exception as error:  # any error of the hub client, Arrow or the file system
        raise InputError(f"{uri}: cannot be opened ({reason_of(error, 200)})") from None
