"""ASGI middleware and the search page."""
