"""Serving an index over HTTP with Ray Serve: a gateway, a query encoder, and one deployment a shard.

Nothing is imported here that a shard does not need: its processes stay small, without torch.
"""
