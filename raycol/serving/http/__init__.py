"""ASGI: middleware, headers and the search page."""
