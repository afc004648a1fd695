"""Cluster checks before a job runs into the problem: collect facts from every node, then check them."""
