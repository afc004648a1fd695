"""Corpora, queries, judgements and training pairs, read from files."""

from raycol.data.beir import Dataset, load_beir
from raycol.data.corpus import Passage, Problem, corpus_file, read_corpus
from raycol.data.pairs import load_pairs, read_pairs

__all__ = [
    "Dataset",
    "Passage",
    "Problem",
    "corpus_file",
    "load_beir",
    "load_pairs",
    "read_corpus",
    "read_pairs",
]
