"""Serving an index over HTTP with Ray Serve: a gateway, a query encoder, and one deployment per shard.

Imports nothing, so that shard processes stay small and load no torch.
"""
