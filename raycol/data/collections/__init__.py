"""Test collections by name: folders, Hugging Face datasets, ir_datasets, and benchmarks of several collections."""

from raycol.data.collections.find import find_collections, is_benchmark
from raycol.data.collections.reference import CollectionRef

__all__ = ["CollectionRef", "find_collections", "is_benchmark"]
