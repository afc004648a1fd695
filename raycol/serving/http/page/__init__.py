"""The search page at `GET /` and the description of the API: their paths, contents and response headers.

Plain HTML, CSS and JavaScript beside this module, without a build step. The pages load only these files and call
only their own endpoint; their URLs are relative, so they work under a route prefix.

    page.js           the form, the URL, the key, the list of hits
      hits.js         one hit, the passages of one document
        excerpt.js      the sentence that a closed hit highlights
        explanation.js  the tokens that matched, in an open hit
    api.js            the description of the API, from the OpenAPI document
    key.js            the panel for the API key
    endpoint.js       requests, the stored key, error responses
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import PurePath
from types import MappingProxyType
from typing import NamedTuple

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
_SCRIPTS = ("page.js", "hits.js", "excerpt.js", "explanation.js", "api.js", "key.js", "endpoint.js")
_FILES = {"/": "index.html"} | {f"/{name}": name for name in ("api.html", "page.css", *_SCRIPTS)}
PAGE_PATHS = tuple(_FILES)

# Document text cannot run or load anything, and other sites cannot frame the page. File names carry no version:
# without no-cache, browsers would keep an old script. `Guard` adds X-Content-Type-Options, as to every response.
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
        {path: PageFile(_TYPES[PurePath(name).suffix], (folder / name).read_bytes()) for path, name in _FILES.items()}
    )
