"""The index format: manifests, partitions and their files (docs/index-format.md)."""
