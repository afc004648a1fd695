"""Clients of an endpoint, sync and async, and the schema of requests; importable without Ray and torch."""
