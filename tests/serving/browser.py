"""A headless Chromium for page tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
# One renderer process for all tabs, and no software rendering of a GPU in a process of its own.
FLAGS = ("--process-per-site", "--disable-gpu", "--disable-software-rasterizer", "--in-process-gpu")


@contextmanager
def chromium() -> Iterator[Any]:
    """A running browser; skips the test if none is installed.

    While it runs, this thread has a running event loop, in which asyncio.run and Serve's handles fail: use them
    before, and close the browser with the module that uses it.
    """
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"needs a Chromium: none of {', '.join(NAMES)} is on the path (Debian: apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: install the extra dev")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=path, args=list(FLAGS))
        yield running
        running.close()


class Tab:
    """A page in its own browser context, recording console messages and requests.

    Tests share one, since a new page costs as much as a test: `restart` makes it as good as new.
    """

    def __init__(self, browser: Any, **settings: Any) -> None:
        self.page = browser.new_context(**settings).new_page()
        self.page.set_default_timeout(20_000)
        self.viewport = self.page.viewport_size
        self.console: list[str] = []
        self.requests: list[str] = []
        self.aborted: list[Any] = []
        self.page.on("console", lambda message: self.console.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.console.append(f"uncaught: {error}"))
        self.page.on("dialog", lambda dialog: (self.console.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", lambda request: self.aborted.append(request.post_data_json))

    def restart(self, url: str) -> None:
        """Forget everything about the previous test; `url` is a file of the site, which keeps its renderer process."""
        self.page.goto(url)
        self.page.evaluate("sessionStorage.clear()")
        self.page.set_viewport_size(self.viewport)
        for record in (self.console, self.requests, self.aborted):
            record.clear()
