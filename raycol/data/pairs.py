"""Training pairs: a query and a passage that answers it.

Two sources: JSON Lines of {"query", "positive"} and BEIR folders, whose train split's judgements above
zero are the pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycol.data.beir import read_qrels, read_queries
from raycol.data.corpus import OnError, read_corpus
from raycol.data.jsonl import read_objects
from raycol.data.position import Position
from raycol.errors import InputError

if TYPE_CHECKING:
    import datasets

Pair = tuple[str, str]


def read_pairs(path: Path, split: str = "train", on_error: OnError = "fail") -> Iterator[Pair]:
    """Yield (query, positive) texts from a .jsonl file or from a split of a BEIR folder.

    With `on_error` "skip", passages that cannot be used are left out with the pairs they are in.

    Raises:
        InputError: the source is missing, or a record lacks one of the two texts.
    """
    if path.is_dir():
        yield from _pairs_of_beir(path, split, on_error)
        return
    for position, record in read_objects(path):
        yield _text(path, position, record, "query"), _text(path, position, record, "positive")


def _text(path: Path, position: Position, record: dict[str, Any], name: str) -> str:
    where = f"{path}, line {position.number}"
    if name not in record:
        raise InputError(f"{where}: no {name!r}, only {', '.join(map(repr, record)) or 'an empty object'}")
    text = record[name]
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{where}: {name!r} is {text!r}; expected a non-empty string")
    return text


def _pairs_of_beir(folder: Path, split: str, on_error: OnError) -> Iterator[Pair]:
    qrels = read_qrels(folder / "qrels" / f"{split}.tsv")
    queries = read_queries(folder / "queries.jsonl")
    contents = {passage.id: passage.content for passage in read_corpus(folder, on_error)}
    for query_id, grades in qrels.items():
        for passage_id, grade in grades.items():
            if grade <= 0:
                continue
            if on_error == "skip" and passage_id not in contents:
                continue
            if query_id not in queries or passage_id not in contents:
                raise InputError(
                    f"{folder}/qrels/{split}.tsv: judges {query_id!r} against {passage_id!r}, "
                    "of which one is not in queries.jsonl or corpus.jsonl"
                )
            yield queries[query_id], contents[passage_id]


def load_pairs(path: Path, split: str = "train", on_error: OnError = "fail") -> datasets.Dataset:
    """The pairs as a `datasets.Dataset` with the columns `query` and `positive`, in that order.

    sentence-transformers goes by the order of the columns, not by their names.
    """
    import datasets

    queries, positives = [], []
    for query, positive in read_pairs(path, split, on_error):
        queries.append(query)
        positives.append(positive)
    if not queries:
        raise InputError(f"{path}: no training pairs in it; expected lines with 'query' and 'positive'")
    return datasets.Dataset.from_dict({"query": queries, "positive": positives})
