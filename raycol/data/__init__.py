"""Read corpora, queries, judgements and training examples."""

from raycol.data.beir import load_beir
from raycol.data.collection import Dataset
from raycol.data.corpus import Passage, read_corpus
from raycol.data.examples import Example, ExampleSource, read_examples
from raycol.data.fields import Fields
from raycol.data.locations import corpus_files
from raycol.data.readers.reader import BadRecord, CorpusFile

__all__ = [
    "BadRecord",
    "CorpusFile",
    "Dataset",
    "Example",
    "ExampleSource",
    "Fields",
    "Passage",
    "corpus_files",
    "load_beir",
    "read_corpus",
    "read_examples",
]
