"""The verbs as functions: `raycol.build_index(texts, model=..., out="my-index")` is `raycol index build`.

Keyword arguments are the fields of the verb's configuration, with the same names, types and defaults; what is
positional on the command line is positional here. A function shows its progress and returns the verb's result.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from raycol.core.config import Config
from raycol.core.progress import console, no_report, progress
from raycol.core.uris import is_uri
from raycol.data.corpus import OnError
from raycol.data.in_memory import stored_corpus
from raycol.data.sources import ExampleSource
from raycol.demo.config import DemoConfig
from raycol.doctor.config import DoctorConfig, check_reachable
from raycol.errors import InputError, writing
from raycol.evaluation.evaluate import EvaluateConfig
from raycol.index.search.effort import Effort
from raycol.indexing.config import AppendConfig, CompactConfig, IndexConfig, PlanConfig
from raycol.jobs.submit import SubmitConfig
from raycol.mining.config import MineConfig, ScoreConfig
from raycol.mining.report import MINING_REPORT, SCORING_REPORT
from raycol.retrieval import SearchConfig
from raycol.serving.config import ServeConfig
from raycol.serving.deploy import DeployConfig
from raycol.storage import absolute, open_store
from raycol.storage.replacing import replacing
from raycol.training.config import Objective, Schedule, Scoring, TrainConfig

if TYPE_CHECKING:
    from raycol.client.schema import VersionResponse
    from raycol.doctor.checks import Finding
    from raycol.evaluation.evaluate import Evaluation
    from raycol.index import Change, IndexStats, VacuumResult
    from raycol.indexing.compact import CompactReport
    from raycol.indexing.estimate import Estimate
    from raycol.indexing.report import BuildReport
    from raycol.jobs.submit import Submitted
    from raycol.mining.report import MiningReport, ScoringReport
    from raycol.retrieval import Results
    from raycol.serving.run import RunningEndpoint
    from raycol.training.launch import TrainReport

Corpus = Any
"""A corpus: a path or a URI, dicts, or a table; see `stored_corpus`."""

Examples = str | Path | Mapping[str, Any] | ExampleSource | Sequence[str | Path | Mapping[str, Any] | ExampleSource]
"""Sources of training examples."""

Dtype = Literal["auto", "float32", "bfloat16", "float16"]

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C", bound=Config)

_ONE_CPU: Mapping[str, float] = {"CPU": 1.0}
_INDEX_ENTRIES = {"manifests", "codebooks", "partitions", "deletes", "build-report.json", "served.json"}


def _documented(config_class: type[Config]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Add the documentation of the configuration's fields to a function's docstring."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        doc = inspect.cleandoc(function.__doc__ or "")
        fields = config_class.model_fields
        lines = [
            f"    {name}: {' '.join((fields[name].description or '').split())}"
            for name in inspect.signature(function).parameters
            if name in fields and f"    {name}:" not in doc
        ]
        function.__doc__ = "\n".join([doc, *([""] if "Args:" in doc else ["", "Args:"]), *lines])
        return function

    return decorate


def _settings(config_class: type[C], verb: str, values: Mapping[str, Any]) -> C:
    """A verb's configuration of a function's arguments. Arguments of the default value count as not passed."""
    fields = config_class.model_fields
    passed = {
        name: value
        for name, value in values.items()
        if name in fields and (fields[name].is_required() or value != fields[name].default)
    }
    return config_class.load(None, passed, f"raycol.{verb}")


@_documented(TrainConfig)
def train(
    *,
    model: str | Path,
    data: Examples,
    out: str | Path,
    storage: str | Path | None = None,
    objective: Objective = "cached",
    scoring: Scoring = "maxsim",
    xtr_tokens: int = 256,
    temperature: float = 1.0,
    teacher_temperature: float | None = None,
    normalize_scores: bool = False,
    gather_across_workers: bool = True,
    n_ways: int | None = None,
    allow_duplicates: bool = False,
    split: str | None = None,
    on_error: OnError = "fail",
    num_workers: int = 1,
    resources: Mapping[str, float] | str = _ONE_CPU,
    wait_for_nodes: float = 0.0,
    batch_size: int = 64,
    mini_batch_size: int = 16,
    accumulate: int = 1,
    epochs: int | None = None,
    max_steps: int = 0,
    learning_rate: float = 3e-05,
    warmup: float = 0.1,
    schedule: Schedule = "linear",
    weight_decay: float = 0.0,
    max_grad_norm: float = 1.0,
    dtype: Literal["float32", "bfloat16"] = "float32",
    gradient_checkpointing: bool = False,
    compile: bool = False,  # noqa: A002
    lora_rank: int = 0,
    lora_alpha: float = 16.0,
    keep_initial: float = 0.0,
    save_every: int = 50,
    keep_checkpoints: int = 2,
    eval_data: str | Path | None = None,
    eval_split: str = "test",
    held_out: int = 0,
    eval_every: int = 100,
    patience: int = 0,
    stall_timeout: int = 1800,
    seed: int = 0,
    embedding_size: int | None = None,
    new_projection: bool = False,
    query_length: int | None = None,
    document_length: int | None = None,
    query_expansion: bool | None = None,
    attend_to_expansion: bool | None = None,
    query_prefix: str | None = None,
    document_prefix: str | None = None,
    skiplist: Sequence[str] | None = None,
    overwrite: bool = False,
) -> TrainReport:
    """Train an encoder on Ray Train; an interrupted training is resumed by the same call.

    Args:
        overwrite: replace the model that an earlier training wrote to `out`, once the new one is complete; a local
            folder only.
    """
    from raycol.training.launch import train as run
    from raycol.training.table import live_table

    with _replacing(TrainConfig, "train", locals(), "a model", _is_model) as (config, final):
        bar = nullcontext(no_report) if console.is_terminal else progress("Training")
        with bar as report, live_table() as on_record:
            result = run(config, report, on_record)
        if final != config.out:
            _rename_within(Path(config.out) / "training" / "config.yaml", config.out, final)
            result = replace(result, model=absolute(final))
    return result


@_documented(IndexConfig)
def build_index(
    corpus: Corpus,
    *,
    id_column: str | None = None,
    title_column: str | None = None,
    text_column: str | None = None,
    make_ids: str | None = None,
    subset: str | None = None,
    split: str | None = None,
    num_workers: int | None = None,
    resources: Mapping[str, float] | str = _ONE_CPU,
    wait_for_nodes: float = 0.0,
    dtype: Dtype = "auto",
    docs_per_partition: int = 4096,
    batch_tokens: int | None = None,
    on_error: OnError = "fail",
    model: str | Path | None = None,
    bits: Literal[1, 2, 4, 8] = 4,
    pool_factor: float = 1.0,
    n_centroids: int | None = None,
    sample_documents: int | None = None,
    store_text: bool = True,
    metadata: Sequence[str] = (),
    embeddings_column: str | None = None,
    split_tokens: int | None = None,
    overlap: int = 0,
    out: str | Path,
    seed: int = 0,
    overwrite: bool = False,
) -> BuildReport:
    """Encode a corpus into an index on Ray Data; an interrupted build is continued by the same call.

        raycol.build_index([{"id": "1", "text": "Copy a tree.", "lang": "en"}], model=..., out="my-index",
                           metadata=["lang"])

    A corpus in memory is written to a temporary file once, beside `out`; a record is read as from a JSON Lines or
    Parquet file. Fields besides id, title and text are stored if `metadata` names them, as on the command line.

    Args:
        corpus: a path or a URI as on the command line; dicts (a list, or an iterator, which is read once); a pandas,
            polars or Arrow table; a Hugging Face Dataset or a Ray Dataset.
        overwrite: replace the index that an earlier build wrote to `out`, once the new one is complete; until then
            the old one can be searched. A local folder only.
    """
    from raycol.indexing.build import build_index as run
    from raycol.indexing.report import save_report

    values = locals()
    with _replacing(IndexConfig, "build_index", {**values, "corpus": "-"}, "an index", _is_index) as (config, final):
        with stored_corpus(corpus, _beside(final)) as stored, progress("Indexing") as report:
            update = {"corpus": stored.location, "metadata": stored.typed(config.metadata), "out": config.out}
            result = run(_settings(IndexConfig, "build_index", {**values, **update}), report)
        if final != config.out:
            result = result.model_copy(update={"index": final})
            save_report(open_store(config.out), result)
    return result


@_documented(AppendConfig)
def append_index(
    index: str | Path,
    corpus: Corpus,
    *,
    id_column: str | None = None,
    title_column: str | None = None,
    text_column: str | None = None,
    make_ids: str | None = None,
    subset: str | None = None,
    split: str | None = None,
    num_workers: int | None = None,
    resources: Mapping[str, float] | str = _ONE_CPU,
    wait_for_nodes: float = 0.0,
    dtype: Dtype = "auto",
    docs_per_partition: int = 4096,
    batch_tokens: int | None = None,
    on_error: OnError = "fail",
    model: str | Path | None = None,
    embeddings_column: str | None = None,
    upsert: bool = False,
) -> BuildReport:
    """Encode a corpus with an index's own encoder and append it, as one new version.

    Args:
        corpus: as for `build_index`. Metadata are the index's columns.
    """
    from raycol.indexing.append import append_corpus

    values = locals()
    with stored_corpus(corpus, _beside(str(index))) as stored, progress("Appending") as report:
        return append_corpus(_settings(AppendConfig, "append_index", {**values, "corpus": stored.location}), report)


@_documented(PlanConfig)
def plan_index(
    corpus: Corpus,
    *,
    id_column: str | None = None,
    title_column: str | None = None,
    text_column: str | None = None,
    make_ids: str | None = None,
    subset: str | None = None,
    split: str | None = None,
    num_workers: int | None = None,
    resources: Mapping[str, float] | str = _ONE_CPU,
    wait_for_nodes: float = 0.0,
    dtype: Dtype = "auto",
    docs_per_partition: int = 4096,
    batch_tokens: int | None = None,
    on_error: OnError = "fail",
    model: str | Path | None = None,
    bits: Literal[1, 2, 4, 8] = 4,
    pool_factor: float = 1.0,
    n_centroids: int | None = None,
    sample_documents: int | None = None,
    store_text: bool = True,
    metadata: Sequence[str] = (),
    embeddings_column: str | None = None,
    split_tokens: int | None = None,
    overlap: int = 0,
) -> Estimate:
    """Estimate what an index build takes, from a sample of the corpus and rates measured on this machine.

    Args:
        corpus: as for `build_index`.
    """
    from raycol.indexing.estimate import estimate_build

    values = locals()
    with stored_corpus(corpus) as stored, progress("Sampling and measuring"):
        update = {"corpus": stored.location, "metadata": stored.typed(metadata)}
        return estimate_build(_settings(PlanConfig, "plan_index", {**values, **update}))


@_documented(CompactConfig)
def compact_index(
    index: str | Path,
    *,
    num_workers: int | None = None,
    resources: Mapping[str, float] | str = _ONE_CPU,
    wait_for_nodes: float = 0.0,
    target_tokens: int | None = None,
) -> CompactReport:
    """Merge small partitions and drop deleted documents on Ray Data, as one new version."""
    from raycol.indexing.compact import compact_index as run

    config = _settings(CompactConfig, "compact_index", locals())
    with progress("Compacting") as report:
        return run(config, report)


def delete_documents(index: str | Path, ids: Iterable[str], *, refuse_unknown: bool = False) -> Change:
    """Delete documents, as one new version. Compaction removes their bytes.

    Args:
        index: folder or URI of the index.
        ids: documents to delete.
        refuse_unknown: fail if a document is not in the index.
    """
    from raycol.index import Index

    if isinstance(ids, str):
        raise InputError(f"ids is {ids!r:.60}; expected a list of ids")
    return Index(index).delete(list(ids), on_unknown="refuse" if refuse_unknown else "ignore")


def vacuum_index(index: str | Path, *, keep: int = 2, abandoned: bool = False) -> VacuumResult:
    """Remove old versions, and files that no remaining version references.

    Args:
        index: folder or URI of the index.
        keep: number of versions to keep, including the current one.
        abandoned: also remove files of unfinished writers. Only safe while no writer runs.
    """
    from raycol.index.write.vacuum import vacuum

    return vacuum(open_store(index), keep, abandoned=abandoned)


def verify_index(index: str | Path) -> list[str]:
    """Read every byte of an index and check it against the manifests' checksums.

    Returns:
        A line for each damaged, missing or unexpected file; none for an intact index.
    """
    from raycol.index.write.verify import verify_index as run

    return run(open_store(index))


def index_info(index: str | Path, *, version: int | None = None) -> IndexStats:
    """Return an index's counts, sizes and codebook drift.

    Args:
        index: folder or URI of the index.
        version: version to open; by default the newest.
    """
    from raycol.index import Searcher

    return Searcher(index, version).stats()


@_documented(MineConfig)
def mine(
    index: str | Path,
    data: str | Path,
    *,
    num_workers: int | None = None,
    resources: Mapping[str, float] | str = _ONE_CPU,
    wait_for_nodes: float = 0.0,
    dtype: Dtype = "auto",
    out: str | Path,
    split: str | None = None,
    subset: str | None = None,
    short: Literal["skip", "keep"] = "skip",
    batch_size: int = 32,
    queries_per_part: int = 256,
    on_error: OnError = "fail",
    model: str | Path | None = None,
    version: int | None = None,
    corpus: str | Path | None = None,
    from_rank: int = 1,
    to_rank: int = 100,
    margin: float | None = None,
    relative_margin: float | None = None,
    max_score: float | None = None,
    min_score: float | None = None,
    negatives: int = 7,
    sampling: Literal["top", "random"] = "top",
    cross_encoder: str | Path | None = None,
    cross_encoder_margin: float = 0.0,
    max_length: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> MiningReport:
    """Find hard negatives of training queries in an index, on Ray Data; an interrupted run is resumed.

    Args:
        overwrite: replace the results that an earlier run wrote to `out`, once the new ones are complete; a local
            folder only.
    """
    from raycol.mining.mine import mine_negatives

    with _replacing(MineConfig, "mine", locals(), "a result of mining", _has(MINING_REPORT)) as (config, final):
        with progress("Mining") as report:
            result = mine_negatives(config, report)
        if final != config.out:
            result = result.model_copy(update={"out": final})
            open_store(config.out).write(MINING_REPORT, result.model_dump_json(indent=1).encode())
    return result


@_documented(ScoreConfig)
def score(
    data: str | Path,
    *,
    num_workers: int | None = None,
    resources: Mapping[str, float] | str = _ONE_CPU,
    wait_for_nodes: float = 0.0,
    dtype: Dtype = "float32",
    out: str | Path,
    split: str | None = None,
    subset: str | None = None,
    short: Literal["skip", "keep"] = "skip",
    batch_size: int = 32,
    queries_per_part: int = 256,
    on_error: OnError = "fail",
    teacher: str | Path,
    n_ways: int = 8,
    max_length: int | None = None,
    overwrite: bool = False,
) -> ScoringReport:
    """Score training examples with a cross-encoder, on Ray Data; an interrupted run is resumed.

    Args:
        overwrite: replace the results that an earlier run wrote to `out`, once the new ones are complete; a local
            folder only.
    """
    from raycol.mining.score import score_examples

    with _replacing(ScoreConfig, "score", locals(), "a result of scoring", _has(SCORING_REPORT)) as (config, final):
        with progress("Scoring") as report:
            result = score_examples(config, report)
        if final != config.out:
            result = result.model_copy(update={"out": final})
            open_store(config.out).write(SCORING_REPORT, result.model_dump_json(indent=1).encode())
    return result


@_documented(EvaluateConfig)
def evaluate(
    data: str | Path,
    *,
    model: str | Path | None = None,
    index: str | Path | None = None,
    split: str = "test",
    on_error: OnError = "fail",
    device: str | None = None,
) -> Evaluation:
    """Evaluate a model, or an index, on a BEIR folder."""
    from raycol.evaluation.evaluate import evaluate as run

    config = _settings(EvaluateConfig, "evaluate", locals())
    with progress("Evaluating") as report:
        return run(config, report)


@_documented(ServeConfig)
def serve(
    index: str | Path,
    *,
    model: str | Path | None = None,
    version: int | None = None,
    shards: int = 1,
    replicas: int = 1,
    max_replicas: int | None = None,
    host: str | None = None,
    port: int = 8000,
    timeout_s: float = 30.0,
    max_requests: int = 64,
    keys: str | Path | None = None,
    open: bool = False,  # noqa: A002
    cors: Sequence[str] = (),
    allowed_hosts: Sequence[str] = (),
) -> RunningEndpoint:
    """Serve an index over HTTP on this machine, until `stop`, the end of a `with` block or of this process.

    with raycol.serve("my-index", port=0) as endpoint:
        raycol.Retriever(endpoint.url).search("how do I parse a date?")
    """
    from raycol.serving.run import start

    config = _settings(ServeConfig, "serve", locals())
    with progress("Starting the endpoint"):
        return start(config)


@_documented(DeployConfig)
def deploy(
    target: str,
    *,
    version: int | None = None,
) -> VersionResponse:
    """Switch running endpoints to another version of their index."""
    from raycol.serving.deploy import deploy as run

    return run(_settings(DeployConfig, "deploy", locals()))


@_documented(SearchConfig)
def search(
    target: str | Path,
    queries: Sequence[str],
    k: int = 10,
    *,
    model: str | Path | None = None,
    filter: str | None = None,  # noqa: A002
    ids: Sequence[str] | None = None,
    trust: bool = False,
    effort: Effort | None = None,
    n_probe: int | None = None,
    n_rescore: int | None = None,
    device: str = "cpu",
) -> Results:
    """Search an index or a running endpoint; `Retriever` keeps it open for further searches."""
    from raycol.retrieval import search as run

    if isinstance(queries, str):
        raise InputError(f"queries is {queries!r:.60}; expected a list of texts")
    return run(_settings(SearchConfig, "search", {**locals(), "target": str(target), "queries": list(queries)}))


@_documented(DoctorConfig)
def run_doctor(
    *,
    address: str | None = None,
    shared: Sequence[str | Path] = (),
    plan: str | Path | None = None,
    wait_s: float = 120,
) -> list[Finding]:
    """Check a cluster before a job fails on it: versions, storage, GPUs, memory, disk, authentication, clocks."""
    config = _settings(DoctorConfig, "run_doctor", locals())
    if address := config.address or os.environ.get("RAY_ADDRESS"):
        check_reachable(address)
        # Ray reads this on import.
        os.environ["RAY_ADDRESS"] = address
    from raycol.doctor.run import examine

    with progress("Checking"):
        return examine(config)


@_documented(DemoConfig)
def run_demo(
    *,
    corpus: str | Path | None = None,
    out: str | Path = "raycol-demo",
    documents: int = 2000,
    queries: int = 250,
    steps: int = 20,
    batch_size: int = 32,
    train_split: str = "train",
    test_split: str = "test",
    shards: int = 2,
    port: int = 0,
    keep_serving: bool = False,
    seed: int = 0,
) -> None:
    """Train, index, serve and search on this machine, over its own docstrings; prints its results."""
    from raycol.demo.run import run_demo as run

    run(_settings(DemoConfig, "run_demo", locals()))


@_documented(SubmitConfig)
def submit(
    verb: str,
    file: str | Path,
    settings: Mapping[str, Any] | None = None,
    *,
    address: str | None = None,
    working_dir: str | Path = ".",
    exclude: Sequence[str] = (),
    env: Sequence[str] = (),
    runtime_env: str | Path | None = None,
    again: bool = False,
    detach: bool = False,
) -> Submitted:
    """Submit a long verb to a Ray cluster as a job, or return the existing job of the same settings.

    Args:
        verb: train, mine, score, index, append, compact or evaluate.
        file: YAML file of the job's settings, in the working directory.
        settings: settings that override the file's.
    """
    from raycol.jobs.submit import submit as run

    return run(verb, Path(file), settings or {}, _settings(SubmitConfig, "submit", locals()))


@contextmanager
def _replacing(
    config_class: type[C], verb: str, values: Mapping[str, Any], kind: str, is_finished: Callable[[Path], bool]
) -> Iterator[tuple[C, str]]:
    """Yield a verb's configuration and its final `out`; with `overwrite`, the configuration writes elsewhere first."""
    config = _settings(config_class, verb, values)
    final: str = config.out  # type: ignore[attr-defined]
    with replacing(final, kind, is_finished) if values["overwrite"] else nullcontext(final) as out:
        yield config if out == final else _settings(config_class, verb, {**values, "out": out}), final


def _is_index(folder: Path) -> bool:
    """Whether a folder is a finished index: a version, and nothing but an index's files."""
    names = set(os.listdir(folder)) if folder.is_dir() else set()
    return any((folder / "manifests").glob("*.json")) and names <= _INDEX_ENTRIES


def _is_model(folder: Path) -> bool:
    """Whether a folder is a model that `train` wrote."""
    settings = folder / "training" / "config.yaml"
    return (
        (folder / "modules.json").is_file() and settings.is_file() and settings.read_bytes().startswith(b"# raycol ")
    )


def _has(report: str) -> Callable[[Path], bool]:
    def is_result(folder: Path) -> bool:
        """Whether a folder has a report and its Parquet files, and nothing else."""
        names = set(os.listdir(folder)) if folder.is_dir() else set()
        return report in names and all(name.endswith(".parquet") for name in names - {report})

    return is_result


def _beside(location: str) -> Path | None:
    """The folder of a local result, which a cluster's workers share; None for one in an object store."""
    if is_uri(location):
        return None
    return Path(location).absolute().parent


def _rename_within(file: Path, before: str, after: str) -> None:
    with writing(file):
        file.write_text(file.read_text(encoding="utf-8").replace(before, after), encoding="utf-8")
