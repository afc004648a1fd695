"""The demo: train, index, serve and search, on text that every machine has."""
