"""Checks of a cluster before a job finds out: facts of every node, and what they say."""
