"""The search page at `GET /`: its paths, contents and response headers.

Plain HTML, CSS and JavaScript beside this module, without a build step. The page loads only these files and calls
only its own endpoint; its URLs are relative, so it works under a route prefix.
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

# Document text cannot run or load anything, and other sites cannot frame the page. File names carry no version:
# without no-cache, browsers would keep an old script.
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
    """Content type and bytes of one file."""

    content_type: str
    content: bytes


@cache
def page_files() -> Mapping[str, PageFile]:
    """The page's files by URL path."""
    folder = resources.files(__name__)
    return MappingProxyType(
        {path: PageFile(content_type, (folder / name).read_bytes()) for path, (name, content_type) in _FILES.items()}
    )
