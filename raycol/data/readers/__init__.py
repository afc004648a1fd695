"""Readers, one per corpus format."""
