"""The demo's data: a test collection, training pairs and questions, from docstrings or a BEIR folder."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from raycol.data import Dataset, ExampleSource, Passage, load_beir, read_examples
from raycol.data.beir import qrels_path, save_beir
from raycol.data.readers.jsonl import write_objects
from raycol.demo.config import DemoConfig
from raycol.demo.docstrings import collect, make_dataset
from raycol.errors import InputError

QUESTIONS = (
    "parse a date from a string",
    "how do I find the middle value of some numbers?",
    "copy a whole directory tree",
    "run another program and capture what it prints",
    "wrap a long paragraph at a given width",
)


@dataclass(frozen=True)
class DemoData:
    """What the demo works on."""

    dataset: Dataset
    pairs: list[tuple[str, str]]
    questions: tuple[str, ...]
    about: str


def gather(config: DemoConfig) -> DemoData:
    """Read a BEIR folder or this machine's docstrings.

    Raises:
        InputError: a BEIR folder that cannot be used.
    """
    if config.corpus:
        dataset = load_beir(config.corpus, config.test_split, on_error="skip")
        pairs, source = _pairs_of_beir(config.corpus, config.train_split, dataset.passages)
        dataset = _first_queries(dataset, config.queries)
        questions = tuple(islice(dataset.queries.values(), len(QUESTIONS)))
        about = f"{config.corpus}: {len(dataset.passages)} passages, pairs from {source}"
    else:
        docstrings = collect(config.documents, config.seed)
        dataset, pairs = make_dataset(docstrings, config.queries)
        questions = QUESTIONS
        modules = len({docstring.module for docstring in docstrings})
        about = f"{len(dataset.passages)} docstrings of {modules} modules"
    return DemoData(dataset, pairs, questions, about)


def save(data: DemoData, out: Path) -> None:
    """Write the data where every step, and its reader, finds it: a BEIR folder and a file of pairs."""
    save_beir(out / "corpus", data.dataset)
    write_objects(out / "pairs.jsonl", ({"query": query, "positive": positive} for query, positive in data.pairs))


def _pairs_of_beir(folder: Path, split: str, passages: list[Passage]) -> tuple[list[tuple[str, str]], str]:
    if Path(qrels_path(folder, split)).is_file():
        examples = read_examples(ExampleSource(path=str(folder), split=split), on_error="skip")
        return [(example.query, example.documents[0]) for example in examples], f"qrels/{split}.tsv"
    pairs = [(passage.title, passage.text) for passage in passages if passage.title.strip() and passage.text.strip()]
    if len(pairs) < 2:
        raise InputError(f"{folder}: too little to train on, neither qrels/{split}.tsv nor passages with titles")
    return pairs, "titles and texts"


def _first_queries(dataset: Dataset, n: int) -> Dataset:
    kept = dict(islice(dataset.queries.items(), n))
    qrels = {query_id: dataset.qrels[query_id] for query_id in kept}
    return Dataset(dataset.passages, kept, qrels, dataset.skipped, dataset.notes)
