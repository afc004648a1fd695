"""What commands print: plain lines on standard output, made to be read and to be piped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from raycol.core.escaping import echo
from raycol.core.memory import size
from raycol.index.format.manifest import REPORT
from raycol.mining.report import MINING_REPORT, SCORING_REPORT, MiningReport, ScoringReport, format_counts

if TYPE_CHECKING:
    from raycol.client.schema import SearchHit
    from raycol.data import BadRecord
    from raycol.evaluation.evaluate import Evaluation
    from raycol.index import Index
    from raycol.indexing.estimate import Estimate
    from raycol.indexing.report import BuildReport
    from raycol.serving.run import RunningEndpoint
    from raycol.training.launch import TrainReport

_SNIPPET = 88
# Records that were left out are listed on the screen up to so many; the report in the index has all.
_SKIPPED_SHOWN = 20


def trained(report: TrainReport) -> None:
    """The outcome of `raycol train`."""
    measured = "".join(f", {name} {value:.4f}" for name, value in report.metrics.items() if name == "nDCG@10")
    kept = f" (kept: step {report.best_step}{measured})" if report.metrics else ""
    echo(
        f"trained {report.model}: {report.steps} steps over {report.examples} examples in {report.seconds:.0f} s, "
        f"loss {report.losses[0]:.3f} -> {report.losses[-1]:.3f}{kept}"
    )
    for remark in report.remarks:
        echo(remark)


def built(report: BuildReport) -> None:
    """The outcome of `raycol index build` and `raycol index append`."""
    split = f" in {report.passages} passages" if report.passages != report.documents else ""
    replaced = f", {report.replaced} documents replaced" if report.replaced else ""
    again = f" ({report.reused_parts} of {report.parts} parts from before)" if report.reused_parts else ""
    echo(
        f"{report.index}: version {report.version}, {report.documents} documents{split}, {report.tokens} tokens in "
        f"{report.partitions} partitions{replaced}, {report.seconds:.0f} s{again}"
    )
    if report.truncated:
        echo(f"{report.truncated} documents are longer than the model takes and were cut (--split-tokens splits)")
    _skipped(report.skipped, f"{REPORT} in the index")


def _skipped(problems: Sequence[BadRecord], where: str) -> None:
    for problem in problems[:_SKIPPED_SHOWN]:
        echo(f"skipped {problem}")
    if len(problems) > _SKIPPED_SHOWN:
        echo(f"skipped {len(problems) - _SKIPPED_SHOWN} more: see {where}")


def mined(report: MiningReport) -> None:
    """The outcome of `raycol mine`."""
    echo(
        f"{report.out}: {report.negatives} negatives for {report.rows} of {report.pairs} pairs of "
        f"{report.queries} queries, {_files(report)}"
    )
    if short := sum(report.short.values()):
        echo(
            f"{short} of {report.queries} queries have fewer than {report.wanted} negatives: "
            f"{_fate(short, report.short_kept)}. What took most of their hits: {format_counts(report.short)}"
        )
    if report.left_out:
        echo(f"of {report.hits} hits are no negatives: {format_counts(report.left_out)}")
    if report.positives_encoded:
        echo(f"{report.positives_encoded} positives are not in the index; their scores are of their texts")
    _skipped(report.skipped, f"{MINING_REPORT} in {report.out}")


def scored(report: ScoringReport) -> None:
    """The outcome of `raycol score`."""
    echo(
        f"{report.out}: {report.pairs} scores for {report.rows} of {report.examples} examples, {_files(report)}; "
        f"{report.positive_first} positives are scored highest"
    )
    if report.short:
        echo(
            f"{report.short} of {report.examples} examples have fewer than {report.n_ways} documents: "
            f"{_fate(report.short, report.short_kept)}"
        )
    if report.documents_left_out:
        echo(f"{report.documents_left_out} documents beyond {report.n_ways} an example were left out (--n-ways)")
    if report.cut:
        echo(f"{report.cut} pairs are longer than the teacher reads and were cut (--max-length)")
    _skipped(report.skipped, f"{SCORING_REPORT} in {report.out}")


def _fate(short: int, kept: int) -> str:
    """What became of those that are short of documents."""
    parts = {"LEFT OUT": short - kept, "kept": kept}
    return " and ".join(f"{n} {what}" for what, n in parts.items() if n) + " (--short)"


def _files(report: MiningReport | ScoringReport) -> str:
    again = f" ({report.reused_parts} from before)" if report.reused_parts else ""
    return f"{report.parts} files{again}, {report.seconds:.0f} s"


def estimate(done: Estimate, num_workers: int | None) -> None:
    """The outcome of `raycol index plan`."""
    kind = "GPU" if done.on_gpu else "CPU"
    rate = f"{done.encoded_per_second:,.0f} tokens encoded and " if done.encoded_per_second else ""
    hours = done.worker_hours
    wall = f", {_hours(hours / num_workers)} on {num_workers} workers" if num_workers else ""
    echo(f"documents    {done.documents:,} (estimated from {done.sampled:,})")
    echo(f"tokens       {done.tokens:,}")
    echo(f"index        {size(done.index_bytes)}, {done.n_centroids:,} centroids, {done.partitions:,} partitions")
    echo(f"work         {done.parts:,} parts, {_hours(hours)} of one {kind}{wall}")
    echo(f"  a second   {rate}{done.quantised_per_second:,.0f} quantised by one worker here")
    echo(f"memory       {size(done.worker_bytes)} a worker, {size(done.driver_bytes)} where it is started")


def _hours(hours: float) -> str:
    return f"{hours:,.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"


def stats(index: Index) -> None:
    """The outcome of `raycol index info`."""
    found, manifest = index.stats(), index.manifest
    versions = ", ".join(str(version) for version in found.versions if version != found.version)
    echo(f"index        {index.uri}")
    echo(f"version      {found.version}" + (f" (there are also {versions})" if versions else ""))
    echo(f"documents    {found.documents} ({found.deleted_documents} more are deleted)")
    echo(f"tokens       {found.tokens} ({found.deleted_tokens} more are deleted)")
    echo(f"partitions   {found.partitions}")
    echo(f"codec        {found.dim} dimensions, {found.bits} bits, {found.n_centroids} centroids")
    echo(f"bytes        {found.bytes} ({found.bytes_per_token:.1f} a token)")
    for name, n_bytes in found.files.items():
        echo(f"  {name:<18} {n_bytes}")
    echo(f"drift        {found.drift:.2f} (1: the codebook fits as it did when it was trained)")
    columns = ", ".join(f"{name} ({kind})" for name, kind in manifest.columns.items())
    echo(f"columns      {columns or 'none'}")
    echo(f"model        {manifest.model.name if manifest.model else 'not known'}")


def serving(endpoint: RunningEndpoint) -> None:
    """Where an endpoint listens, and how to ask it."""
    manifest = endpoint.manifest
    echo(f"serving {manifest.documents} documents over {endpoint.shards} shards at {endpoint.url} (Ctrl-C stops)")
    echo(f"try: raycol search {endpoint.url} 'your question'")


def hits(query: str, found: Sequence[SearchHit]) -> None:
    """A query and its hits, a line each."""
    echo(query)
    for rank, hit in enumerate(found, start=1):
        text = " ".join((hit.text or "").split())
        snippet = text if len(text) <= _SNIPPET else text[: _SNIPPET - 1] + "…"
        echo(f"{rank:4}  {hit.score:7.3f}  {hit.id}" + (f"  {snippet}" if snippet else ""))
    if not found:
        echo("      no hits")


def evaluation(result: Evaluation) -> None:
    """The outcome of `raycol evaluate`."""
    skipped = f", {result.skipped} documents skipped" if result.skipped else ""
    echo(f"{result.queries} queries, {result.documents} documents, {result.method}{skipped}")
    for note in result.notes:
        echo(f"note: {note}", err=True)
    for name, value in result.metrics.items():
        echo(f"{name:8} {value:.4f}")


def comparison(rows: Mapping[str, Mapping[str, float]], title: str) -> None:
    """Several ways of searching and their metrics, as a table."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    names = next(iter(rows.values()))
    for name in names:
        table.add_column(name, justify="right")
    for row, metrics in rows.items():
        table.add_row(row, *(f"{metrics[name]:.4f}" for name in names))
    Console(highlight=False).print(table)
