"""Progress of a job over parts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from raycol.core.progress import Report


class PartProgress:
    """Reports how much of the parts is done, such as documents: at the start, within parts, and after each part.

    Args:
        report: receives the progress.
        sizes: amount of each part.
        reused: numbers of the parts that an earlier run has finished.
        n_workers: concurrent workers.
        activity: the note within parts, what workers do: "encoding".
        unit: what to call parts.
    """

    def __init__(
        self,
        report: Report,
        sizes: Sequence[int],
        reused: Collection[int],
        n_workers: int,
        activity: str = "",
        unit: str = "parts",
    ) -> None:
        self._report, self._sizes, self._workers = report, sizes, n_workers
        self._activity, self._unit = activity, unit
        self.total = sum(sizes)
        self.done = sum(sizes[number] for number in reused)
        self.n_finished = self.n_reused = len(reused)

    def start(self) -> None:
        """Report what an earlier run has done."""
        self._show()

    def add(self, number: int, record: Any) -> None:
        """Add a finished part."""
        self.done += self._sizes[number]
        self.n_finished += 1
        self._show()

    def within_parts(self, done: int) -> None:
        """Report the amount that is done of the unfinished parts."""
        self._report(self.done + done, self.total, self._activity)

    def note(self) -> str:
        """Describe the progress: "3 of 9 parts, 2 running"; before any other is finished, how many are reused."""
        running = min(self._workers, len(self._sizes) - self.n_finished)
        note = f"{self.n_finished} of {len(self._sizes)} {self._unit}{f', {running} running' if running else ''}"
        return f"{note}; {self.n_reused} from before" if 0 < self.n_reused == self.n_finished else note

    def _show(self) -> None:
        self._report(self.done, self.total, self.note())
