"""Progress of a build as metrics that Ray exports to Prometheus with its own."""

from __future__ import annotations


class BuildMetrics:
    """Gauges of one build: `raycol_index_documents`, `_documents_total`, `_tokens_per_second`, ..."""

    def __init__(self, documents_total: int) -> None:
        from ray.util.metrics import Gauge

        self._gauges = {
            name: Gauge(f"raycol_index_{name}", description)
            for name, description in (
                ("documents_total", "Documents that the build will encode."),
                ("documents", "Documents encoded so far."),
                ("tokens", "Tokens encoded so far by this command."),
                ("tokens_per_second", "Tokens per second since this command started encoding."),
                ("parts", "Parts of the corpus whose partition is written."),
                ("skipped", "Documents skipped so far."),
            )
        }
        self._gauges["documents_total"].set(documents_total)

    def show(self, documents: int, tokens: int, parts: int, skipped: int, rate: float) -> None:
        """Set the gauges of progress."""
        for name, value in (
            ("documents", documents),
            ("tokens", tokens),
            ("parts", parts),
            ("skipped", skipped),
            ("tokens_per_second", rate),
        ):
            self._gauges[name].set(value)
