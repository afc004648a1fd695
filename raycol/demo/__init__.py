"""The demo: the whole path on text that every machine has."""
