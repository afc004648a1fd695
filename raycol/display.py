"""The commands' output: plain lines on standard output, readable and pipeable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from raycol.core.arguments import as_options
from raycol.core.escaping import echo, printable
from raycol.core.memory import size
from raycol.index.format.manifest import REPORT
from raycol.mining.report import MINING_REPORT, SCORING_REPORT, MiningReport, ScoringReport, format_counts

if TYPE_CHECKING:
    from raycol.client.schema import SearchHit, VersionResponse
    from raycol.data import BadRecord
    from raycol.evaluation.result import Evaluation
    from raycol.index import Change, Hit, Index, IndexStats, VacuumResult
    from raycol.indexing.compact import CompactReport
    from raycol.indexing.estimate import Estimate
    from raycol.indexing.report import BuildReport
    from raycol.models.exporting import Exported
    from raycol.serving.run import RunningEndpoint
    from raycol.studies.result import StudyResult
    from raycol.sweeps.result import SweepResult
    from raycol.training.estimate import TrainEstimate
    from raycol.training.hub import Pushed
    from raycol.training.launch import TrainReport

_SNIPPET = 88
# Number of skipped records to print; the report in the index lists all.
_SKIPPED_SHOWN = 20


def trained(report: TrainReport) -> None:
    """Print the result of `raycol train`."""
    best = f" (best: step {report.best_step})" if report.metrics else ""
    if report.averaged_steps:
        best = f" (mean of steps {', '.join(map(str, sorted(report.averaged_steps)))})"
    echo(
        f"trained {report.model}: {report.steps} steps over {report.examples} examples in {report.seconds:.0f} s, "
        f"{report.loss_summary}{best}"
    )
    for name, (before, after) in report.selection.items():
        echo(f"{name}: {report.eval_metric} {'' if before is None else f'{before:.4f} -> '}{after:.4f}")
    if report.improved is False and report.averaged_steps:
        echo(f"the mean has no better {report.eval_metric} than the untrained model")
    elif report.improved is False:
        echo(f"no step has a better {report.eval_metric} than the untrained model; the best step was kept")
    for remark in report.remarks:
        echo(as_options(remark))


def swept(result: SweepResult) -> None:
    """Print the result of `raycol sweep`: its table, best first, and where the best model is."""
    header, rows = result.table()
    table = _table(*header)
    for row in rows:
        table.add_row(*map(printable, row))
    Console(highlight=False, markup=False).print(table)
    echo(f"{result.model}: trial {result.best}, {result.metric} {result.value:.4f}")
    echo(f"{result.out}: table.md, sweep.json, picture.svg")


def pushed(result: Pushed) -> None:
    """Print the result of `raycol push`."""
    echo(f"pushed {result.files} files, {size(result.bytes)}, to {result.url} ({result.revision} {result.commit[:8]})")


def exported(result: Exported) -> None:
    """Print the result of `raycol export`."""
    echo(
        f"exported to {result.out} ({result.format}, {size(result.bytes)}); its embeddings differ from the model's by "
        f"at most {result.max_difference:.1e}"
    )


def train_estimate(result: TrainEstimate) -> None:
    """Print the result of `raycol train --dry-run`."""
    tokens = round(result.tokens / result.steps)
    rate = f"{result.tokens_per_second:,.0f} tokens/s a worker" if result.tokens_per_second else ""
    time = "unknown: pass --tokens-per-second" if result.hours is None else f"{_hours(result.hours)} at {rate}"
    parts = ", ".join(f"{name} {size(n_bytes)}" for name, n_bytes in result.memory.items())
    echo(f"examples     {result.examples:,}, {result.steps:,} steps")
    echo(f"tokens       {tokens:,} a step, {result.tokens:,} in all (estimated from {result.sampled:,} examples)")
    echo(f"padding      {result.padded_share:.1%} of what is encoded")
    echo(f"weights      {result.parameters:,}, {result.trained_parameters:,} of them trained")
    echo(f"memory       {size(result.worker_bytes)} a worker: {parts}")
    echo(f"network      {size(result.network_bytes)} a step, sent by each worker")
    echo(f"time         {time}")
    if mining := result.mining:
        hours = "" if mining.hours is None else f", {_hours(mining.hours)} more in all"
        texts = f"{mining.texts:,} texts of {mining.tokens:,} tokens"
        echo(f"mining       {mining.rounds:,} rounds, each encodes {texts}{hours}")


def built(report: BuildReport) -> None:
    """Print the result of `raycol index build` and `raycol index append`."""
    split = f" in {report.passages} passages" if report.passages != report.documents else ""
    added = f" added{split}, {report.in_index} now in the index" if report.version > 1 else split
    replaced = f", {report.replaced} documents replaced" if report.replaced else ""
    reused = f" ({report.reused_parts} of {report.parts} parts reused)" if report.reused_parts else ""
    echo(
        f"{report.index}: version {report.version}, {report.documents} documents{added}, {report.tokens} tokens in "
        f"{report.partitions} partitions{replaced}, {report.seconds:.0f} s{reused}"
    )
    if report.truncated:
        echo(f"{report.truncated} documents exceed the model's length and were truncated (--split-tokens splits them)")
    _skipped(report.skipped, f"{REPORT} in the index")


def _skipped(problems: Sequence[BadRecord], report: str) -> None:
    for problem in problems[:_SKIPPED_SHOWN]:
        echo(f"skipped {as_options(str(problem))}")
    if len(problems) > _SKIPPED_SHOWN:
        echo(f"skipped {len(problems) - _SKIPPED_SHOWN} more: see {report}")


def mined(report: MiningReport) -> None:
    """Print the result of `raycol mine`."""
    echo(
        f"{report.out}: {report.negatives} negatives for {report.rows} of {report.pairs} pairs of "
        f"{report.queries} queries, {_files(report)}"
    )
    if short := sum(report.short.values()):
        echo(
            f"{short} of {report.queries} queries have fewer than {report.wanted} negatives: "
            f"{_short_outcome(short, report.short_kept)}. "
            f"By what excluded most of their hits: {as_options(format_counts(report.short))}"
        )
    if report.mined_by:
        echo("negatives by system: " + ", ".join(f"{n} {name}" for name, n in report.mined_by.items()))
    if report.left_out:
        echo(f"excluded of {report.hits} hits: {as_options(format_counts(report.left_out))}")
    if report.positives_encoded:
        echo(f"{report.positives_encoded} positives are not in the index; their texts were encoded to score them")
    _skipped(report.skipped, f"{MINING_REPORT} in {report.out}")


def scored(report: ScoringReport) -> None:
    """Print the result of `raycol score`."""
    echo(
        f"{report.out}: {report.pairs} scores for {report.rows} of {report.examples} examples, {_files(report)}; "
        f"{report.positive_first} positives score highest"
    )
    if report.short:
        echo(
            f"{report.short} of {report.examples} examples have fewer than {report.n_ways} documents: "
            f"{_short_outcome(report.short, report.short_kept)}"
        )
    if report.documents_left_out:
        echo(f"{report.documents_left_out} documents beyond {report.n_ways} an example were dropped (--n-ways)")
    if report.reused:
        echo(f"{report.reused} scores were known and taken over (--reuse)")
    if report.cut:
        echo(f"{report.cut} pairs exceed the teacher's length and were truncated (--max-length)")
    _skipped(report.skipped, f"{SCORING_REPORT} in {report.out}")


def _short_outcome(short: int, kept: int) -> str:
    """How many rows with too few documents were dropped and how many kept."""
    outcomes = {"DROPPED": short - kept, "kept": kept}
    return " and ".join(f"{n} {outcome}" for outcome, n in outcomes.items() if n) + " (--short)"


def _files(report: MiningReport | ScoringReport) -> str:
    reused = f" ({report.reused_parts} reused)" if report.reused_parts else ""
    return f"{report.parts} files{reused}, {report.seconds:.0f} s"


def estimate(result: Estimate, num_workers: int | None) -> None:
    """Print the result of `raycol index plan`."""
    kind = "GPU" if result.on_gpu else "CPU"
    encoded = f"{result.encoded_per_second:,.0f} tokens encoded and " if result.encoded_per_second else ""
    hours = result.worker_hours
    workers = min(num_workers, result.parts) if num_workers else None  # a part occupies one worker
    wall = f", {_hours(hours / workers)} on {workers} workers" if workers else ""
    echo(f"documents    {result.documents:,} (estimated from {result.sampled:,})")
    echo(f"tokens       {result.tokens:,}")
    echo(
        f"index        {size(result.index_bytes)}, {result.n_centroids:,} centroids, {result.partitions:,} partitions"
    )
    echo(f"work         {result.parts:,} parts, {_hours(hours)} of one {kind}{wall}")
    echo(f"  a second   {encoded}{result.quantised_per_second:,.0f} quantised, by one worker of this machine")
    echo(f"memory       {size(result.worker_bytes)} a worker, {size(result.driver_bytes)} for the driver")


def _hours(hours: float) -> str:
    return f"{hours:,.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"


def deleted(change: Change, index: str, n_ids: int) -> None:
    """Print the result of `raycol index delete` of `n_ids` distinct ids."""
    unknown = f", of {n_ids} ids; the others are not in the index" if change.removed < n_ids else ""
    echo(f"{index}: version {change.version}, {change.removed} documents deleted{unknown}")


def compacted(report: CompactReport) -> None:
    """Print the result of `raycol index compact`."""
    echo(
        f"{report.index}: version {report.version}, {report.partitions_before} -> {report.partitions} partitions, "
        f"{report.dropped} deleted documents dropped"
    )


def vacuumed(result: VacuumResult, index: str) -> None:
    """Print the result of `raycol index vacuum`."""
    echo(f"{index}: {len(result.versions)} versions and {len(result.removed)} folders and files removed")


def stats(result: IndexStats, index: Index) -> None:
    """Print the result of `raycol index info`."""
    manifest = index.manifest
    versions = ", ".join(str(version) for version in result.versions if version != result.version)
    echo(f"index        {index.uri}")
    echo(f"version      {result.version}" + (f" (also stored: {versions})" if versions else ""))
    unit = "passages" if manifest.split else "documents"
    echo(f"{unit:<12} {result.documents} ({result.deleted_documents} more are deleted)")
    echo(f"tokens       {result.tokens} ({result.deleted_tokens} more are deleted)")
    echo(f"partitions   {result.partitions}")
    echo(f"codec        {result.dim} dimensions, {result.bits} bits, {result.n_centroids} centroids")
    echo(f"bytes        {result.bytes} ({result.bytes_per_token:.1f} a token)")
    for name, n_bytes in result.files.items():
        echo(f"  {name:<18} {n_bytes}")
    echo(f"drift        {result.drift:.2f} (1: the codebook fits as well as when it was trained)")
    columns = ", ".join(f"{name} ({kind})" for name, kind in manifest.columns.items())
    echo(f"columns      {columns or 'none'}")
    echo(f"model        {manifest.model.name if manifest.model else 'unknown'}")


def serving(endpoint: RunningEndpoint) -> None:
    """Print an endpoint's address and a command that queries it."""
    manifest = endpoint.manifest
    unit = "passages" if manifest.split else "documents"
    echo(f"serving {manifest.documents} {unit} over {endpoint.shards} shards at {endpoint.url} (Ctrl-C stops)")
    echo(f"try: raycol search {endpoint.url} 'your question'")


def deployed(response: VersionResponse, target: str) -> None:
    """Print the result of `raycol deploy`."""
    echo(f"{target}: version {response.version} in place of {response.before}")


def hits(query: str, results: Sequence[Hit | SearchHit]) -> None:
    """Print a query and its hits, one a line."""
    echo(query)
    for rank, hit in enumerate(results, start=1):
        text = " ".join((hit.text or "").split())
        snippet = text if len(text) <= _SNIPPET else text[: _SNIPPET - 1] + "…"
        echo(f"{rank:4}  {hit.score:7.3f}  {hit.id}" + (f"  {snippet}" if snippet else ""))
    if not results:
        echo("      no hits")


def evaluation(result: Evaluation, out: str | None = None) -> None:
    """Print the result of `raycol evaluate`: a table for each collection, the averages, and the differences.

    Args:
        result: the result.
        out: folder that it was written to.
    """
    from raycol.evaluation.result import shown_means, with_interval  # NumPy; other commands print without it

    for note in result.notes:
        echo(f"note: {note}", err=True)
    console = Console(highlight=False, markup=False)
    for collection in dict.fromkeys(one.collection for one in result.results):
        ours = [one for one in result.results if one.collection == collection]
        skipped = f", {ours[0].skipped} documents skipped" if ours[0].skipped else ""
        echo(f"{collection}: {ours[0].queries:,} queries, {ours[0].documents:,} documents{skipped}")
        table = _table("", *ours[0].means, "ms/query")
        for one in ours:
            milliseconds = f"{1000 * one.seconds / one.queries:,.1f}"
            table.add_row(printable(one.system), *shown_means(one.means).values(), milliseconds)
        console.print(table)
    if len({one.collection for one in result.results}) > 1:
        echo("mean over the collections")
        table = _table("", *result.results[0].means)
        for system, means in result.averages.items():
            table.add_row(printable(system), *shown_means(means).values())
        console.print(table)
    if result.differences:
        echo(f"differences to {result.baseline}")
        table = _table("collection", "metric", "system", "difference", "p (Holm)", "wins/ties/losses")
        for each in result.differences:
            found = each.comparison
            table.add_row(
                printable(each.collection),
                each.metric,
                printable(each.system),
                with_interval(found.difference, found.interval, signed=True),
                f"{each.p_holm:.4f}",
                f"{found.wins}/{found.ties}/{found.losses}",
            )
        console.print(table)
    if out:
        differing = ", with the queries that differ most" if result.largest_differences else ""
        echo(f"wrote {printable(out)}: evaluation.json{differing}, queries.parquet and pictures")


def study(result: StudyResult) -> None:
    """Print the result of `raycol study`: a table for each collection and stratum, and where the files are."""
    for note in result.notes:
        echo(f"note: {note}", err=True)
    console = Console(highlight=False, markup=False)
    for title, header, rows in result.tables():
        echo(title)
        table = _table(*header)
        for row in rows:
            table.add_row(*map(printable, row))
        console.print(table)
    echo(f"{result.out}: table.md, study.json, picture.svg")


def _table(*columns: str) -> Table:
    table = Table()
    for name in columns:
        table.add_column(name, justify="left" if name in ("", "collection", "metric", "system") else "right")
    return table


def comparison(rows: Mapping[str, Mapping[str, float]], title: str) -> None:
    """Print the metrics of several search methods as a table."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    names = next(iter(rows.values()))
    for name in names:
        table.add_column(name, justify="right")
    for row, metrics in rows.items():
        table.add_row(row, *(f"{metrics[name]:.4f}" for name in names))
    Console(highlight=False).print(table)
