"""The search page that an endpoint answers `GET /` with: which paths it has, their bytes, and the headers for them.

Plain HTML, CSS and JavaScript beside this module, without a build step. The page loads nothing but these files and
asks nothing but the endpoint it came from; its addresses are relative, so that it works under a route prefix.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import NamedTuple

_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}

# For an answer with any of the files. What a document says can neither run nor load anything, nor can another site
# put the page in a frame. The files have no version in their names: without no-cache an old script would stay.
HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Content-Security-Policy": "; ".join(
            (
                "default-src 'none'",
                "script-src 'self'",
                "style-src 'self'",
                "connect-src 'self'",
                "img-src 'self' data:",
                "base-uri 'none'",
                "form-action 'self'",
                "frame-ancestors 'none'",
            )
        ),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
)


class PageFile(NamedTuple):
    """What a path is answered with."""

    content_type: str
    content: bytes


@cache
def page_files() -> Mapping[str, PageFile]:
    """The files of the page by the path that each is served from."""
    folder = resources.files(__name__)
    return MappingProxyType(
        {path: PageFile(content_type, (folder / name).read_bytes()) for path, (name, content_type) in _FILES.items()}
    )
