"""Sync and async clients of an endpoint, and the request schema; importable without Ray and torch."""
