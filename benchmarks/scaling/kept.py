"""What was measured of one size, in a folder: a JSON file a step, so that an interrupted run goes on behind the last.

A file is written beside its place and renamed, so it is whole or not there.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measure import say

Step = dict[str, Any]


def step(folder: Path, name: str, work: Callable[[], Step]) -> Step:
    """What a step measured: from its file, or by doing it now."""
    place = folder / f"{name}.json"
    if not place.exists():
        say(f"{folder.name}: {name}")
        started = time.time()
        measured = {"load_before": os.getloadavg()[0], **work(), "step_s": time.time() - started}
        write(place, measured)
    return read(place)


def write(place: Path, measured: Step) -> None:
    """Put a file in its place at once."""
    beside = place.with_suffix(".unfinished")
    beside.write_text(json.dumps(measured, indent=1))
    beside.rename(place)


def read(place: Path) -> Step:
    """A file that was written."""
    measured: Step = json.loads(place.read_text())
    return measured


def sizes(keep: Path) -> list[Step]:
    """Everything of each size whose steps are all done, smallest first: the steps by name, and `tokens`."""
    found = []
    for folder in keep.glob("tokens-*"):
        if (folder / "done.json").exists():
            steps = {place.stem: read(place) for place in folder.glob("*.json")}
            found.append({**steps, "tokens": int(folder.name.removeprefix("tokens-"))})
    return sorted(found, key=lambda size: int(size["tokens"]))


def folder_of(keep: Path, tokens: int) -> Path:
    """Where a size is kept."""
    return keep / f"tokens-{tokens}"
