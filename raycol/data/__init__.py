"""Corpora, queries, judgements and training pairs, read from files."""

from raycol.data.beir import Dataset, load_beir
from raycol.data.corpus import Passage, read_corpus
from raycol.data.fields import Fields
from raycol.data.files import CorpusFile, corpus_files
from raycol.data.pairs import load_pairs, read_pairs
from raycol.data.position import Problem

__all__ = [
    "CorpusFile",
    "Dataset",
    "Fields",
    "Passage",
    "Problem",
    "corpus_files",
    "load_beir",
    "load_pairs",
    "read_corpus",
    "read_pairs",
]
