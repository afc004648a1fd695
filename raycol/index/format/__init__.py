"""The on-disk index format: manifests, partitions and deletes (docs/index-format.md)."""
