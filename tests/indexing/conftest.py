"""Tests that start several nodes, or many builds, run where RAYCOL_CLUSTER_TESTS is set: they take minutes."""

import os

if not os.environ.get("RAYCOL_CLUSTER_TESTS"):
    collect_ignore = ["test_append.py", "test_bounds.py", "test_cluster.py", "test_crashes.py", "test_sources.py"]
