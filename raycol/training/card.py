"""What lies beside the weights of a trained model: its card, its settings, and how training went.

README.md               the model card, as the Hugging Face hub reads it
training/config.yaml    the settings, as `raycol train` takes them
training/metrics.jsonl  what was noted of each step and evaluation, a line each
training/curves.png     the same as a picture
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

import raycol
from raycol.core.uris import base_name, is_uri, without_options
from raycol.data.files import HUB
from raycol.evaluation.metrics import METRICS
from raycol.models.discovery import PACKAGED_BACKBONE, read_json
from raycol.models.encoder import load_encoder
from raycol.training.curves import draw_curves
from raycol.training.record import Record

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

    from raycol.training.checkpoints import Saved
    from raycol.training.config import TrainConfig
    from raycol.training.prepare import TrainingTask

# What is told of a step and of an evaluation; the Trainer notes more, which says nothing about the model.
_NOTED = ("step", "epoch", "loss", "learning_rate", "grad_norm", "tokens_per_second", "memory_bytes", *METRICS)
# The hub's names of metrics.
_HUB_METRICS = {"nDCG@10": "ndcg_at_10", "R@10": "recall_at_10", "R@100": "recall_at_100", "RR@10": "mrr_at_10"}

# Settings that the card tells of whatever they are, and those it never does: places, and what its sections say.
_ALWAYS = ("objective", "scoring", "temperature", "batch_size", "epochs", "learning_rate", "schedule", "warmup",
           "dtype", "seed", "num_workers")  # fmt: skip
_NEVER = ("model", "data", "out", "storage", "eval_data", "wait_for_nodes")
_PACKAGES = ("sentence-transformers", "transformers", "torch", "ray")
# Where the packaged backbone's weights come from.
_PACKAGED_FROM = "sentence-transformers/all-MiniLM-L6-v2"


def write_extras(
    folder: Path, config: TrainConfig, work: TrainingTask, kept: Saved, history: Sequence[Record]
) -> None:
    """Write the card and all else beside a saved model.

    Args:
        folder: the model's, not yet where `config.out` says.
        config: the settings of the training.
        work: what was prepared for it.
        kept: the checkpoint that the model was made of.
        history: what the Trainer noted of each step and evaluation.

    Raises:
        OSError: the folder cannot be written.
        InputError: what is in the folder does not open.
    """
    records = [
        {name: entry[name] for name in _NOTED if name in entry}
        for entry in history
        if "loss" in entry or any(name in entry for name in METRICS)
    ]
    notes = folder / "training"
    notes.mkdir(exist_ok=True)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (notes / "metrics.jsonl").write_text(lines, encoding="utf-8")
    (notes / "config.yaml").write_text(_settings_file(config), encoding="utf-8")
    draw_curves(notes / "curves.png", records, kept.step)
    card = _card(load_encoder(folder, device="cpu"), _opens_in_pylate(folder), config, work, kept, records)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _settings_file(config: TrainConfig) -> str:
    """The settings as YAML. Where checkpoints went is left out if nobody chose it."""
    settings = config.effective()
    if _is_packaged(config.model):
        settings["model"] = PACKAGED_BACKBONE
    if config.storage == config.model_copy(update={"storage": None}).place:
        del settings["storage"]
    head = f"# raycol {raycol.__version__}; to train anew: raycol train config.yaml --out ANOTHER_FOLDER\n"
    return head + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def _opens_in_pylate(folder: Path) -> bool:
    return read_json(str(folder), "config_sentence_transformers.json", dict).get("model_type") == "ColBERT"


def _card(
    encoder: MultiVectorEncoder,
    opens_in_pylate: bool,
    config: TrainConfig,
    work: TrainingTask,
    kept: Saved,
    records: Sequence[Record],
) -> str:
    sections = [
        f"# {_text(config.name)}\n\n{_about(encoder, config)}",
        f"## Use\n\n{_use(config.name, opens_in_pylate)}",
        f"## Scores\n\n{_scores(config, work, kept, records)}",
        f"## Data\n\n{_data(work)}",
        f"## Settings\n\n{_settings(config, work)}",
        f"## Versions\n\n{_versions()}",
    ]
    return f"---\n{_front_matter(config, work, kept, opens_in_pylate)}---\n\n" + "\n\n".join(sections) + "\n"


def _front_matter(config: TrainConfig, work: TrainingTask, kept: Saved, opens_in_pylate: bool) -> str:
    """YAML that the hub reads. It links to models and data sets, so only those of the hub are named here."""
    results = [
        EvalResult(
            task_type="information-retrieval",
            dataset_type=re.sub(r"\W+", "-", _collection(config).lower()).strip("-") or "unknown",
            dataset_name=_collection(config),
            metric_type=_HUB_METRICS[name],
            metric_name=name,
            metric_value=round(kept.metrics[name], 5),
        )
        for name in METRICS
        if name in kept.metrics
    ]
    data = ModelCardData(
        model_name=config.name,
        library_name="sentence-transformers",
        pipeline_tag="feature-extraction",
        tags=["sentence-transformers", "multi-vector", "colbert", "late-interaction", *["PyLate"] * opens_in_pylate,
              "raycol"],
        base_model=_hub_model(config),
        datasets=sorted({info.path[len(HUB) :] for info in work.sources if info.path.startswith(HUB)}) or None,
        eval_results=results or None,
    )  # fmt: skip
    return f"{data.to_yaml().strip()}\n"


def _about(encoder: MultiVectorEncoder, config: TrainConfig) -> str:
    transformer, expansion = encoder[0], encoder[0].query_expansion
    query = f"at most {transformer.query_length or encoder.max_seq_length} tokens"
    if expansion:
        query = f"{'at least ' if expansion['strategy'] == 'min' else ''}{expansion['length']} tokens, filled up with "
        query += f"mask tokens that are scored too, and {'' if expansion['attend'] else 'not '}attended to"
    together = "averaged" if encoder.similarity_fn_name == "meanmaxsim" else "summed up"
    base = _hub_model(config)
    origin = f"[{_text(base)}](https://huggingface.co/{base})" if base else _text(base_name(config.model))
    rows = [
        ("dimensions", str(encoder.get_embedding_dimension())),
        ("query", query),
        ("document", f"at most {transformer.document_length or encoder.max_seq_length} tokens"),
        *(
            (f"{task} prefix", f"`{prefix}`" if (prefix := encoder.prompts.get(task)) else "none")
            for task in ("query", "document")
        ),
        ("similarity", f"MaxSim: for each query token its best dot product with a document token, {together}"),
        ("parameters", f"{sum(parameter.numel() for parameter in encoder.parameters()):,}"),
    ]
    return (
        "A late-interaction (ColBERT-style, multi-vector) retrieval model: it turns each token of a query or a "
        "document into a unit vector and compares them one by one.\n\n"
        f"Trained with raycol {raycol.__version__} from {origin}.\n\n{_table(('setting', 'value'), rows)}"
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
        parts.append("PyLate does not open it: its layout has no room for some of the settings.")
    return "\n\n".join(parts)


def _scores(config: TrainConfig, work: TrainingTask, kept: Saved, records: Sequence[Record]) -> str:
    losses = [record for record in records if "loss" in record]
    taken = int(losses[-1]["step"]) if losses else kept.step
    course = f"{taken:,} steps" + (f", of {work.steps:,} that were planned." if taken < work.steps else ".")
    if losses:
        course += f" Loss: {losses[0]['loss']:.4g} in the first, {losses[-1]['loss']:.4g} in the last."
    picture = "![Loss, learning rate, gradient norm and evaluations over the steps](training/curves.png)"
    if not kept.metrics:
        return f"{course} It was not evaluated; these are the weights after step {kept.step:,}.\n\n{picture}"
    rows = [(name, f"{kept.metrics[name]:.4f}") for name in METRICS if name in kept.metrics]
    return (
        f"{course} These are the weights after step {kept.step:,}, the best of the evaluations on "
        f"{_text(_collection(config))}:\n\n{_table(('metric', 'exact MaxSim'), rows)}\n\n{picture}"
    )


def _data(work: TrainingTask) -> str:
    rows = [
        (
            _text(_data_name(info.path)),
            f"{info.examples:,}",
            str(info.n_ways),
            f"{info.weight:,.10g}",
            f"{info.skipped:,}",
        )
        for info in work.sources
    ]
    header = ("source", "examples", "documents of each", "weight in the mixture", "left out")
    remarks = [f"- {_text(_data_name(info.path))}: {_text(one)}" for info in work.sources for one in info.remarks()]
    listed = "\n\n" + "\n".join(remarks) if remarks else ""
    return f"{_table(header, rows)}\n\nBatches are of one source each, drawn by weight.{listed}"


def _settings(config: TrainConfig, work: TrainingTask) -> str:
    """The main settings, and all that differ from the defaults."""
    fields = type(config).model_fields
    chosen = {
        name: getattr(config, name)
        for name in (*_ALWAYS, *(name for name in fields if name not in _ALWAYS))
        if name not in _NEVER and (name in _ALWAYS or getattr(config, name) != fields[name].default)
    }
    if config.epochs is None:
        del chosen["epochs"]  # the steps say it
    rows = [("steps", f"{work.steps:,}"), *((f"`{name}`", _value(value)) for name, value in chosen.items())]
    return f"{_table(('setting', 'value'), rows)}\n\nAll of them are in [training/config.yaml](training/config.yaml)."


def _versions() -> str:
    found = {"raycol": raycol.__version__, **{name: version(name) for name in _PACKAGES}}
    return _table(("package", "version"), list(found.items()))


def _collection(config: TrainConfig) -> str:
    """What the model was evaluated on, by name."""
    if config.eval_data:
        place = without_options(config.eval_data)
        return f"{Path(place).name if is_uri(place) else Path(place).resolve().name} ({config.eval_split})"
    return f"{config.held_out} held-out queries of the training data"


def _is_packaged(model: str) -> bool:
    return PACKAGED_BACKBONE.replace("-", "_") in Path(model).parts or model == PACKAGED_BACKBONE


def _hub_model(config: TrainConfig) -> str | None:
    """The model on the hub that training started from, if it is one."""
    if _is_packaged(config.model):
        return _PACKAGED_FROM
    place = Path(config.model)
    return None if is_uri(config.model) or place.is_absolute() or place.exists() else config.model


def _data_name(path: str) -> str:
    """The last name of where data was. Names on the hub stay whole."""
    return path[len(HUB) :] if path.startswith(HUB) else base_name(path)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={amount:g}" for name, amount in value.items())
    return f"{value:g}" if isinstance(value, float) else _text(str(value))


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows))


def _text(text: str) -> str:
    """A name as text in Markdown: on one line, without what would be taken for markup."""
    return re.sub(r"([\\`*_|<>\[\]#])", r"\\\1", " ".join(text.split()))
