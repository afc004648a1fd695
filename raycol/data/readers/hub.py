"""Rows of Hugging Face datasets: of the hub (hf:NAME), or of a folder that `save_to_disk` wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from raycol.data.files import HUB, CorpusFile, folder_state, reading
from raycol.data.position import START, Position
from raycol.data.readers.parquet import records_of
from raycol.errors import InputError, reason_of

if TYPE_CHECKING:
    import datasets

_ROWS = 512


def read_dataset(
    file: CorpusFile, choose: Callable[[list[str]], list[str]], start: Position = START
) -> Iterator[tuple[Position, dict[str, Any]]]:
    """Yield rows from `start` with their positions; `choose` picks from the names of columns.

    Raises:
        InputError: no such dataset, or it has several splits and none was named.
    """
    dataset = open_dataset(file)
    names = choose(dataset.column_names)
    if not names:  # a table of no columns has no rows either
        yield from ((Position(number, number + 1), {}) for number in range(start.offset, len(dataset)))
        return
    table = dataset.select_columns(names).with_format("arrow")
    for first in range(start.offset, len(dataset), _ROWS):
        with reading(file):
            part = table[first : first + _ROWS]
            part.validate(full=True)  # nothing else looks at where a damaged file's offsets point
        for batch in part.combine_chunks().to_batches():
            rows = records_of(batch, file)
            for number in range(batch.num_rows):
                position = Position(first + number, first + number + 1)
                yield position, {name: rows[name][number] for name in names}


def open_dataset(file: CorpusFile) -> datasets.Dataset:
    """Open a dataset, one split of it; kept open, since a build reads many parts of one."""
    if file.uri.startswith(HUB):
        return _open_dataset(file, "")
    if file.subset:
        raise InputError(f"{file}: a folder has no subsets; leave --subset out")
    return _open_dataset(file, folder_state(file.uri, "*.json"))  # another dataset may have been saved there since


def subsets_of(uri: str) -> tuple[str, ...]:
    """The subsets of a dataset of the hub; none where that cannot be found out."""
    import datasets

    try:
        return tuple(datasets.get_dataset_config_names(uri.removeprefix(HUB)))
    except Exception:  # whatever it is, opening the dataset says it
        return ()


def dataset_state(file: CorpusFile) -> str:
    """What tells whether a dataset is another one now."""
    if file.uri.startswith(HUB):
        # Made of the configuration and of the data files that the builder found.
        return str(open_dataset(file)._fingerprint)
    # Not its own fingerprint: that stays where a function, not its arguments, gives other embeddings.
    return folder_state(file.uri, "*")


@lru_cache(maxsize=4)
def _open_dataset(file: CorpusFile, version: str) -> datasets.Dataset:
    import datasets

    try:
        if file.uri.startswith(HUB):
            found = datasets.load_dataset(file.uri.removeprefix(HUB), file.subset)
        else:
            found = datasets.load_from_disk(file.uri)
    except Exception as error:
        # The hub's client, Arrow, the file system: whatever fails, there is no such dataset to be had.
        raise InputError(f"{file}: cannot be opened ({reason_of(error, 200)})") from None
    if isinstance(found, datasets.Dataset):
        if file.split:
            raise InputError(f"{file}: has no splits; leave --split out")
        return found
    splits = list(found)
    chosen = file.split or (splits[0] if len(splits) == 1 else None)
    if chosen not in splits:
        what = f"no split {file.split!r}" if file.split else "several splits"
        raise InputError(f"{file}: {what}; choose one of {', '.join(splits)} with --split")
    return found[chosen]
