"""The files next to a trained model's weights: model card, settings, metrics, training curves.

README.md               the model card, in the Hugging Face hub's format
training/config.yaml    the settings, as input of `raycol train`
training/metrics.jsonl  a line per step and evaluation; if the weights are an average, a last one with its metrics
training/curves.png     the same metrics, plotted
training/files.txt      the files of the model, written last
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from raycol.core.escaping import plain
from raycol.core.uris import base_name, is_uri
from raycol.core.version import __version__
from raycol.data.files import HUB
from raycol.models.discovery import PACKAGED_BACKBONE, read_json
from raycol.models.encoder import load_encoder
from raycol.training.evaluation import eval_metrics
from raycol.training.metrics import Record, averaged, draw_curves, improved, metric_of

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

    from raycol.training.checkpoints import Exported
    from raycol.training.config import TrainConfig
    from raycol.training.prepare import TrainingTask

# Entries of `metrics.jsonl`; the Trainer logs more, which says nothing about the model.
_RECORDED = (
    "step",
    "epoch",
    "loss",
    "learning_rate",
    "grad_norm",
    "loss_scale",
    "temperature",
    "tokens_per_second",
    "padded_share",
    "memory_bytes",
)
# Metric names on the hub.
_HUB_METRICS = {"nDCG@10": "ndcg_at_10", "R@10": "recall_at_10", "R@100": "recall_at_100", "RR@10": "mrr_at_10"}

# Settings that the card lists even at their defaults, and those it never lists: locations, and the content of other
# sections.
_ALWAYS_LISTED = ("objective", "scoring", "temperature", "batch_size", "epochs", "learning_rate", "schedule", "warmup",
                  "dtype", "seed", "num_workers")  # fmt: skip
_NEVER_LISTED = ("model", "data", "out", "storage", "prepared", "remine", "tracking_dir", "eval_data",
                 "wait_for_nodes")  # fmt: skip
_PACKAGES = ("sentence-transformers", "transformers", "torch", "ray")
# Hub name of the packaged backbone's weights.
_PACKAGED_ORIGIN = "sentence-transformers/all-MiniLM-L6-v2"


def write_extras(
    folder: Path, config: TrainConfig, task: TrainingTask, best: Exported, history: Sequence[Record]
) -> None:
    """Write the model card and the folder `training` next to a saved model.

    Args:
        folder: the saved model, before it is moved to `config.out`.
        config: the settings of the training.
        task: the prepared sources and steps.
        best: the checkpoint with the model's weights, or the record of the mean of several.
        history: the Trainer's log history.

    Raises:
        OSError: the folder cannot be written.
        InputError: the saved model cannot be opened.
    """
    metrics = tuple(eval_metrics(config))
    recorded = (*_RECORDED, *metrics, *(name for names in _of_collections(metrics, task).values() for name in names))
    records = [
        {name: entry[name] for name in recorded if name in entry}
        for entry in history
        if "loss" in entry or metrics[0] in entry
    ]
    if best.metrics and (config.average_checkpoints or config.ema_decay):
        records.append({"step": max(best.steps), **{averaged(name): best.metrics[name] for name in best.metrics}})
    details = folder / "training"
    details.mkdir(exist_ok=True)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (details / "metrics.jsonl").write_text(lines, encoding="utf-8")
    (details / "config.yaml").write_text(_settings_file(config), encoding="utf-8")
    draw_curves(details / "curves.png", records, best.steps, metrics)
    card = _card(load_encoder(folder, device="cpu"), _opens_in_pylate(folder), config, task, best, records)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _settings_file(config: TrainConfig) -> str:
    """The settings as YAML, without a default `storage`."""
    settings = config.effective()
    if _is_packaged(config.model):
        settings["model"] = PACKAGED_BACKBONE
    if config.storage == config.model_copy(update={"storage": None}).storage_uri:
        del settings["storage"]
    how = "raycol train config.yaml --out ANOTHER_FOLDER"
    if not all(isinstance(one.objective, str) for one in config.by_source):
        how = "raycol.train with these settings, and the loss as objective"
    head = f"# raycol {__version__}; to repeat the training: {how}\n"
    return head + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def _opens_in_pylate(folder: Path) -> bool:
    return read_json(str(folder), "config_sentence_transformers.json", dict).get("model_type") == "ColBERT"


def _card(
    encoder: MultiVectorEncoder,
    opens_in_pylate: bool,
    config: TrainConfig,
    task: TrainingTask,
    best: Exported,
    records: Sequence[Record],
) -> str:
    sections = [
        f"# {plain(config.name)}\n\n{_about(encoder, config)}",
        f"## Use\n\n{_use(config.name, opens_in_pylate)}",
        f"## Scores\n\n{_scores(config, task, best, records)}",
        f"## Data\n\n{_data(task)}",
        f"## Settings\n\n{_settings(config, task)}",
        f"## Versions\n\n{_versions()}",
    ]
    return f"---\n{_front_matter(config, task, best, opens_in_pylate)}---\n\n" + "\n\n".join(sections) + "\n"


def _front_matter(config: TrainConfig, task: TrainingTask, best: Exported, opens_in_pylate: bool) -> str:
    """Front matter for the hub. The hub links models and data sets by name, so local ones are left out."""
    metrics = tuple(eval_metrics(config))
    results = [
        EvalResult(
            task_type="information-retrieval",
            dataset_type=_slug(collection) or "unknown",
            dataset_name=collection,
            metric_type=_HUB_METRICS.get(metric, _slug(metric)),
            metric_name=metric,
            metric_value=round(best.metrics[name], 5),
        )
        for collection, names in _of_collections(metrics, task).items()
        for metric, name in zip(metrics, names, strict=True)
        if name in best.metrics
    ]
    data = ModelCardData(
        model_name=config.name,
        library_name="sentence-transformers",
        pipeline_tag="feature-extraction",
        tags=["sentence-transformers", "multi-vector", "colbert", "late-interaction", *["PyLate"] * opens_in_pylate,
              "raycol"],
        base_model=_hub_model(config),
        datasets=sorted({info.path[len(HUB) :] for info in task.sources if info.path.startswith(HUB)}) or None,
        eval_results=results or None,
    )  # fmt: skip
    return f"{data.to_yaml().strip()}\n"


def _about(encoder: MultiVectorEncoder, config: TrainConfig) -> str:
    transformer, expansion = encoder[0], encoder[0].query_expansion
    query = f"at most {transformer.query_length or encoder.max_seq_length} tokens"
    if expansion:
        query = f"{'at least ' if expansion['strategy'] == 'min' else ''}{expansion['length']} tokens, padded with "
        query += f"mask tokens that are scored too and {'' if expansion['attend'] else 'not '}attended to"
    aggregation = "averaged" if encoder.similarity_fn_name == "meanmaxsim" else "summed"
    base = _hub_model(config)
    origin = f"[{plain(base)}](https://huggingface.co/{base})" if base else plain(base_name(config.model))
    rows = [
        ("dimensions", str(encoder.get_embedding_dimension())),
        ("query", query),
        ("document", f"at most {transformer.document_length or encoder.max_seq_length} tokens"),
        *(
            (f"{task} prefix", f"`{prefix}`" if (prefix := encoder.prompts.get(task)) else "none")
            for task in ("query", "document")
        ),
        ("similarity", f"MaxSim: each query token's maximum dot product with a document token, {aggregation}"),
        ("parameters", f"{sum(parameter.numel() for parameter in encoder.parameters()):,}"),
    ]
    if config.matryoshka:
        sizes = ", ".join(map(str, sorted(config.matryoshka)))
        rows.append(("smaller embeddings", f"trained for the first {sizes} dimensions: `embedding_size` of an index"))
    if config.pool_factor > 1:
        rows.append(("token pooling", f"trained for an index with a `pool_factor` of {config.pool_factor:g}"))
    return (
        "A late-interaction (ColBERT-style, multi-vector) retrieval model: it encodes each token of a query or a "
        "document as a unit vector and compares them token by token.\n\n"
        f"Trained with raycol {__version__} from {origin}.\n\n{_table(('setting', 'value'), rows)}"
    )


def _use(name: str, opens_in_pylate: bool) -> str:
    model = json.dumps(name, ensure_ascii=False)
    queries = '["how do I copy a folder?"]'
    documents = '["Copy a whole directory tree.", "The middle value of some numbers."]'
    examples = {
        "raycol": f"""\
from raycol import Document, Index, load_encoder

encoder = load_encoder({model})
documents = {documents}
embeddings = encoder.encode_document(documents, convert_to_numpy=True)
index = Index.create("an-index", (Document(str(n), tokens) for n, tokens in enumerate(embeddings)))
for hit in index.search(encoder.encode_query({queries}, convert_to_numpy=True), k=2)[0]:
    print(f"{{hit.score:.2f}}", documents[int(hit.id)])
""",
        "sentence-transformers (6.2 or newer)": f"""\
from sentence_transformers import MultiVectorEncoder

encoder = MultiVectorEncoder({model})
queries = encoder.encode_query({queries})
documents = encoder.encode_document({documents})
print(encoder.similarity(queries, documents))
""",
        "PyLate": f"""\
from pylate import models, rank

encoder = models.ColBERT({model})
queries = encoder.encode({queries}, is_query=True)
documents = encoder.encode([{documents}], is_query=False)
print(rank.rerank(documents_ids=[["0", "1"]], queries_embeddings=queries, documents_embeddings=documents))
""",
    }
    if not opens_in_pylate:
        del examples["PyLate"]
    parts = [f"With {title}:\n\n```python\n{code}```" for title, code in examples.items()]
    if not opens_in_pylate:
        parts.append("PyLate cannot open this model: its format does not support some of the settings.")
    return "\n\n".join(parts)


def _scores(config: TrainConfig, task: TrainingTask, best: Exported, records: Sequence[Record]) -> str:
    losses = [record for record in records if "loss" in record]
    n_steps = int(losses[-1]["step"]) if losses else best.step
    summary = f"{n_steps:,} steps" + (f" of {task.steps:,} planned." if n_steps < task.steps else ".")
    if losses:
        summary += f" Loss: {losses[0]['loss']:.4g} in the first step, {losses[-1]['loss']:.4g} in the last."
    picture = "![Loss, learning rate, gradient norm and evaluations over the steps](training/curves.png)"
    steps = [f"{step:,}" for step in sorted(best.steps)]
    averaged = len(steps) > 1
    source = f"the mean of those of steps {', '.join(steps[:-1])} and {steps[-1]}"
    if not averaged:
        source = f"those of step {steps[0]}"
    if not best.metrics:
        return f"{summary} Not evaluated; the weights are {source}.\n\n{picture}"
    metrics = tuple(eval_metrics(config))
    untrained = next((record for record in records if not record["step"]), {})
    names = _of_collections(metrics, task)
    if len(names) > 1:
        names["average"] = list(metrics)
    rows = [
        (plain(collection), metric, f"{untrained[key]:.4f}" if key in untrained else "", f"{best.metrics[key]:.4f}")
        for collection, keys in names.items()
        for metric, key in zip(metrics, keys, strict=True)
        if key in best.metrics
    ]
    table = _table(("collection", "metric", "untrained", "mean" if averaged else f"step {steps[0]}"), rows)
    scope = (
        f"average over {len(task.collections)} collections"
        if len(task.collections) > 1
        else plain(", ".join(map(str, task.collections)))
    )
    selected = f"The weights are {source}, which scored best in {metrics[0]} on {scope}."
    if improved(metrics[0], untrained, best.metrics) is False:
        better = "The mean did not score" if averaged else "No step scored"
        selected += f" **{better} better than the untrained model.**"
    return f"{summary} {selected} Metrics by exact MaxSim:\n\n{table}\n\n{picture}"


def _of_collections(metrics: Sequence[str], task: TrainingTask) -> dict[str, list[str]]:
    """Names of each collection's metrics in a record; see `evaluate_on`."""
    several = len(task.collections) > 1
    return {
        str(each): [metric_of(metric, str(each)) if several else metric for metric in metrics]
        for each in task.collections
    }


def _slug(name: str) -> str:
    return re.sub(r"\W+", "-", name.lower()).strip("-")


def _data(task: TrainingTask) -> str:
    rows = [
        (
            plain(_data_name(info.path)),
            f"{info.examples:,}",
            str(info.n_ways),
            f"{info.weight:,.10g}",
            f"{info.skipped:,}",
        )
        for info in task.sources
    ]
    header = ("source", "examples", "documents per example", "sampling weight", "unusable records")
    remarks = [f"- {plain(_data_name(info.path))}: {plain(one)}" for info in task.sources for one in info.remarks()]
    remark_list = "\n\n" + "\n".join(remarks) if remarks else ""
    return f"{_table(header, rows)}\n\nEach batch comes from one source, sampled by weight.{remark_list}"


def _settings(config: TrainConfig, task: TrainingTask) -> str:
    """Table of the main settings and of those that differ from the defaults."""
    fields = type(config).model_fields
    listed = {
        name: getattr(config, name)
        for name in (*_ALWAYS_LISTED, *(name for name in fields if name not in _ALWAYS_LISTED))
        if name not in _NEVER_LISTED and (name in _ALWAYS_LISTED or getattr(config, name) != fields[name].default)
    }
    listed["objective"] = config.objective_name
    if config.guide and (is_uri(config.guide) or Path(config.guide).is_absolute()):
        listed["guide"] = base_name(config.guide)
    if config.epochs is None:
        del listed["epochs"]  # the number of steps tells it
    rows = [("steps", f"{task.steps:,}"), *((f"`{name}`", _value(value)) for name, value in listed.items())]
    return f"{_table(('setting', 'value'), rows)}\n\nAll settings: [training/config.yaml](training/config.yaml)."


def _versions() -> str:
    versions = {"raycol": __version__, **{name: version(name) for name in _PACKAGES}}
    return _table(("package", "version"), list(versions.items()))


def _is_packaged(model: str) -> bool:
    return PACKAGED_BACKBONE.replace("-", "_") in Path(model).parts or model == PACKAGED_BACKBONE


def _hub_model(config: TrainConfig) -> str | None:
    """Hub name of the initial model; None for a local one."""
    if _is_packaged(config.model):
        return _PACKAGED_ORIGIN
    path = Path(config.model)
    return None if is_uri(config.model) or path.is_absolute() or path.exists() else config.model


def _data_name(path: str) -> str:
    """The last component of a path or URI, or the full name of a hub data set."""
    return path[len(HUB) :] if path.startswith(HUB) else base_name(path)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={amount:g}" for name, amount in value.items())
    return f"{value:g}" if isinstance(value, float) else plain(str(value))


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows))
