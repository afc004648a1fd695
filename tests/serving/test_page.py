"""The search page: its files, and its behaviour in a browser with canned responses."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from raycol.client.schema import (
    ExplainRequest,
    ExplainResponse,
    IndexDescription,
    Problem,
    SearchHit,
    SearchRequest,
    SearchResponse,
    ShardCount,
    Token,
    TokenMatch,
)
from raycol.serving.gateway import api
from raycol.serving.http import page
from raycol.serving.http.page import HEADERS, PAGE_PATHS, page_files
from tests.serving.browser import Tab, chromium

# ---------------------------------------------------------------- files


SCRIPTS = ["api.js", "endpoint.js", "excerpt.js", "explanation.js", "hits.js", "key.js", "page.js"]


def test_the_pages_are_files_with_their_types() -> None:
    assert {path: file.content_type for path, file in page_files().items()} == {
        "/": "text/html; charset=utf-8",
        "/api.html": "text/html; charset=utf-8",
        "/page.css": "text/css; charset=utf-8",
        **{f"/{name}": "text/javascript; charset=utf-8" for name in SCRIPTS},
    }
    assert all(file.content.strip() for file in page_files().values())
    assert set(page_files()) == set(PAGE_PATHS)
    # A file that is not served is not part of the page.
    folder = Path(page.__file__).parent
    assert sorted(file.name for file in folder.glob("*.js")) == SCRIPTS


def test_no_external_resources_are_loaded_or_allowed() -> None:
    policy = dict(part.split(" ", 1) for part in HEADERS["Content-Security-Policy"].split("; "))
    assert policy.pop("img-src") == "'self' data:"
    assert {policy.pop(name) for name in ("default-src", "base-uri", "frame-ancestors")} == {"'none'"}
    assert set(policy.values()) == {"'self'"}
    linked = {"/": ["page.css", "page.js", "api.html"], "/api.html": ["page.css", "api.js", "./", "openapi.json"]}
    for path, expected in linked.items():
        html = page_files()[path].content.decode()
        addresses = re.findall(r"""(?:src|href|action)=["']?([^"'\s>]+)""", html)
        assert [address for address in addresses if not re.match(r"data:(image/svg\+xml)?,", address)] == expected
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", html)
    assert b"url(" not in page_files()["/page.css"].content
    assert b"@import" not in page_files()["/page.css"].content


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_scripts_insert_text_only(name: str) -> None:
    script = page_files()[f"/{name}"].content.decode()
    imported = re.findall(r"""\b(?:from|import)\b\s*\(?["'`]([^"'`]+)""", script)
    assert {address.removeprefix("./") for address in imported} <= set(SCRIPTS)
    assert not re.search(r"HTML|document\.write|\beval\b|Function\(|setTimeout\(\s*[\"'`]|https?:", script)


def luminance(color: str) -> float:
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_of_wcag_aa(scheme: str) -> None:
    style = page_files()["/page.css"].content.decode()
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#\w{6});", block)) for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    )
    assert set(light) == set(dark)
    colors = {name: luminance(color) for name, color in (light if scheme == "light" else dark).items()}
    levels = [f"level-{n}" for n in range(1, 6)]
    grounds = {
        "ink": ["ground", "raised", "warning-ground", "problem-ground", *levels],
        "quiet": ["ground", "raised", "problem-ground"],
        "accent": ["ground", "raised"],
        "on-accent": ["accent"],
    }
    for text, below in grounds.items():
        for ground in below:
            low, high = sorted((colors[text], colors[ground]))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)


# ---------------------------------------------------------------- an endpoint with canned responses

HOSTILE = "<script>window.ran = 1</script><img src=x onerror=\"window.ran = 2\"><svg onload='window.ran = 3'>"
LONG_WORD = "w" * 3000
ARABIC = "العاصفة تضرب الميناء"

TEXTS = {
    "plain": ("Storms", "🌩️ A storm came over the harbour, 👩‍🚀 and the storm went on.", {"year": 2021, "lang": "en"}),
    "hostile": (HOSTILE, f"storm {HOSTILE}", {"note": HOSTILE, HOSTILE: "name"}),
    "long": (None, f"storm {LONG_WORD}", {"serial": 2**62 + 1, "draft": False, "seen": None}),
    "rtl": (ARABIC, ARABIC, {"lang": "ar"}),
    "unkept": (None, None, {}),
    "pooled": ("Pooled", "a storm in few tokens", {}),
}


# Passages of split documents, and two hits that only look like passages.
PASSAGES = [
    ("b#1", "storm in b", {"parent": "b", "title": "Book B"}),
    ("<b>#0", "storm in a bold book", {"parent": "<b>", "title": HOSTILE}),
    ("b#0", "storm at the beginning of b", {"parent": "b", "title": "Book B"}),
    ("<b>#12", "storm again", {"parent": "<b>", "title": HOSTILE}),
    ("b#x", "a storm", {"parent": "b"}),
    ("b", "storm", {}),
    ("b#10", "the last storm of b", {"parent": "b", "title": "Book B"}),
]
# The third sentence has the rare words; it begins after more text than a closed hit shows.
FILLING = f"{'The sea is the sea, and the rain is the rain, as everybody on the coast will tell you. ' * 6}"
SENTENCES = {
    "far": f"{FILLING}A lighthouse keeper <b>parsed</b> the dates of the storm. {FILLING}",
    "near": "It rained on the sea. The keeper's dates were\nright. The rest is the sea.",
    "neither": "Nothing of this kind 漢字 here.",
}


def canned_hits(query: str, k: int) -> list[SearchHit]:
    if query == "nothing":
        return []
    if query == "many":
        return [SearchHit(id=f"n{n}", score=99 - n, text=f"text {n}", metadata={}) for n in range(min(k, 25))]
    if query == "passages":
        return [
            SearchHit(id=id_, score=9 - n, text=text, metadata=metadata)
            for n, (id_, text, metadata) in enumerate(PASSAGES)
        ]
    if "keeper" in query:
        return [
            SearchHit(id=id_, score=9 - n, text=text, metadata={}) for n, (id_, text) in enumerate(SENTENCES.items())
        ]
    return [
        SearchHit(
            id=id_,
            score=20.5 - 1.25 * place,
            text=text,
            metadata=({} if title is None else {"title": title}) | metadata,
        )
        for place, (id_, (title, text, metadata)) in enumerate(TEXTS.items())
    ]


def canned_search(query: str, k: int) -> SearchResponse:
    partial = query == "partial"
    return SearchResponse(
        results=[canned_hits(query, k)],
        version=3,
        partial=partial,
        shards=ShardCount(total=4, answered=3 if partial else 4),
        took_ms={"encode": 4.21, "search": 12.9, "total": 17.11},
    )


def explain_words(query: str, id_: str, text: str) -> ExplainResponse:
    """Each word of the query matches itself, or else the text's last word, as 24 masks do."""
    words = [Token(text=match[0], start=match.start(), end=match.end()) for match in re.finditer(r"\w+", query)]
    document = [Token(text=match[0], start=match.start(), end=match.end()) for match in re.finditer(r"\w+", text)]
    places = {token.text: place for place, token in enumerate(document)}
    query_tokens = [*words, *[Token(text="[MASK]", start=0, end=0)] * 24, Token(text="[SEP]", start=0, end=0)]
    matches = [
        TokenMatch(query_token=n, document_token=places.get(token.text, len(document) - 1), score=0.5)
        for n, token in enumerate(query_tokens)
    ]
    score = 0.5 * len(matches)
    return ExplainResponse(
        id=id_,
        score=score,
        text=text,
        query_tokens=query_tokens,
        document_tokens=document,
        matches=matches,
        version=3,
    )


def canned_explain(query: str, id_: str) -> ExplainResponse:
    """For the query "storm sea": its words match the document's second "storm" and its last word."""
    if id_ not in TEXTS:
        texts = SENTENCES | {id_: text for id_, text, _ in PASSAGES}
        return explain_words(query, id_, texts.get(id_, f"text {id_[1:]}"))
    title, text, _ = TEXTS[id_]
    query_tokens = [
        Token(text="[CLS]", start=0, end=0),
        Token(text="storm", start=0, end=5),
        Token(text="sea", start=6, end=9),
        Token(text="[MASK]", start=0, end=0),
    ]
    if id_ in ("unkept", "pooled"):
        matches = [TokenMatch(query_token=n, document_token=0, score=0.5) for n in range(4)]
        return ExplainResponse(
            id=id_, score=2, text=text, query_tokens=query_tokens, document_tokens=None, matches=matches, version=3
        )
    whole = " ".join(part for part in (title, text) if part is not None)
    storm = whole.rindex("storm") if "storm" in whole else whole.rindex("العاصفة")
    length = 5 if "storm" in whole else 7
    # Offsets count code points, as in Python: an emoji is one, and two UTF-16 units in JavaScript.
    document_tokens = [
        Token(text="[CLS]", start=0, end=0),
        Token(text=whole[0], start=0, end=1),
        Token(text=whole[storm : storm + length], start=storm, end=storm + length),
        Token(text=whole[-3:], start=len(whole) - 3, end=len(whole)),
    ]
    matches = [
        TokenMatch(query_token=0, document_token=0, score=0.964),
        TokenMatch(query_token=1, document_token=2, score=0.95),
        TokenMatch(query_token=2, document_token=3, score=0.3),
        TokenMatch(query_token=3, document_token=2, score=0.6),
    ]
    return ExplainResponse(
        id=id_,
        score=2.814,
        text=whole,
        query_tokens=query_tokens,
        document_tokens=document_tokens,
        matches=matches,
        version=3,
    )


class Stub:
    """An endpoint with canned responses. `key` is the key it requires, `asked` the requests it received."""

    def __init__(self) -> None:
        self.url = ""
        self.reset()
        self.app = FastAPI(openapi_url=None)
        self.app.middleware("http")(self._note)
        for path, file in page_files().items():
            answer = Response(file.content, media_type=file.content_type, headers=dict(HEADERS))
            self.app.add_api_route(path, lambda answer=answer: answer, response_model=None)
        self.app.add_api_route("/openapi.json", lambda: api.openapi(), response_model=None)
        self.app.add_api_route("/v1/index", self._index)
        self.app.add_api_route("/v1/search", self._search, methods=["POST"])
        self.app.add_api_route("/v1/explain", self._explain, methods=["POST"])

    def reset(self) -> None:
        self.key: str | None = None
        self.model: str | None = "a/model"
        self.no_examples = False
        self.broken_k = 0  # "many" with this k fails once
        self.columns = {"year": "int64", "lang": "string", "the day": "date"}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.keys: list[str | None] = []

    def bodies(self, path: str) -> list[dict[str, Any]]:
        """Bodies of requests, without the search by embeddings for example queries."""
        return [body for asked, body in self.asked if asked == path and "embeddings" not in body]

    def for_examples(self) -> list[dict[str, Any]]:
        return [body for _, body in self.asked if "embeddings" in body]

    async def _note(self, request: Request, go_on: Callable) -> Response:
        path = request.url.path
        if path.startswith("/v1/") or path == "/openapi.json":
            self.keys.append(request.headers.get("authorization"))
            self.asked.append((path, await request.json() if request.method == "POST" else {}))
            if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
                return self._problem(401, "Unauthorized", "this endpoint asks for a key")
        return await go_on(request)

    @staticmethod
    def _problem(status: int, title: str, detail: str) -> JSONResponse:
        body = Problem(title=title, status=status, detail=detail, request_id="r-4711")
        headers = {"Retry-After": "7"} if status == 429 else {}
        return JSONResponse(body.model_dump(), status, headers, media_type="application/problem+json")

    async def _index(self) -> IndexDescription:
        return IndexDescription(
            name="an-index",
            version=3,
            versions=[2, 3],
            documents=1234,
            tokens=56_789,
            dim=96,
            bits=4,
            columns=self.columns,
            shards=4,
            model=self.model,
        )

    async def _search(self, request: SearchRequest) -> Any:
        if request.embeddings is not None and self.no_examples:
            return self._problem(503, "Unavailable", "the shards are starting")
        if request.query == "many" and request.k == self.broken_k:
            self.broken_k = 0
            return self._problem(503, "Shard unavailable", "shard 2 does not answer")
        if request.query == "slow":
            await asyncio.sleep(5)
        if request.query == "broken":
            return self._problem(503, "Shard unavailable", "shard 2 does not answer <b>at all</b>")
        if request.query == "busy":
            return self._problem(429, "Too many requests", "the queue is full.")
        if request.query == "proxy":
            return Response("<html>502</html>", 502, media_type="text/html")
        return canned_search(request.query or "", request.k)

    async def _explain(self, request: ExplainRequest) -> Any:
        if request.query == "no explain":
            return self._problem(404, "Not found", f"no document {request.id!r}")
        return canned_explain(request.query, request.id)


@pytest.fixture(scope="module")
def stub() -> Iterator[Stub]:
    stub = Stub()
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(stub.app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    stub.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    yield stub
    server.should_exit = True
    thread.join(10)
    listener.close()


@pytest.fixture(scope="module")
def base_url(stub: Stub) -> str:
    """URL of the page."""
    return stub.url


# ---------------------------------------------------------------- in a browser

in_a_browser = pytest.mark.slow


@pytest.fixture(scope="module")
def shared_tab(base_url: str) -> Iterator[Tab]:
    with chromium() as browser:
        yield Tab(browser, viewport={"width": 1280, "height": 900}, reduced_motion="reduce")


@pytest.fixture
def tab(shared_tab: Tab, stub: Stub) -> Iterator[Tab]:
    """A tab; checks afterwards that no request left this machine and no content was blocked by the policy."""
    tab = shared_tab
    tab.restart(f"{stub.url}/page.css")
    stub.reset()
    yield tab
    loaded = tab.page.evaluate("performance.getEntries().map((entry) => entry.name)")
    addresses = [address for address in tab.requests + loaded if re.match(r"\w+://", address)]
    assert addresses
    assert {urlsplit(address).hostname for address in addresses} == {"127.0.0.1"}
    assert tab.page.evaluate("window.ran") is None
    # The browser itself logs error responses.
    allowed = re.compile(
        r"error: Failed to load resource: the server responded with a status of (401|404|422|429|502|503)"
    )
    assert [line for line in tab.console if not allowed.match(line)] == []


def expect(locator: Any) -> Any:
    from playwright.sync_api import expect as expect_

    expect_.set_options(timeout=20_000)
    return expect_(locator)


def search(tab: Tab, query: str) -> None:
    tab.page.get_by_label("Query", exact=True).fill(query)
    tab.page.get_by_role("button", name="Search").click()


def hit(tab: Tab, id_: str) -> Any:
    exact = re.compile(f"^{re.escape(id_)}$")
    return tab.page.locator(".hit").filter(has=tab.page.locator(".id bdi").get_by_text(exact))


def refused(tab: Tab) -> list[str]:
    """The console's messages about the content security policy."""
    return [line for line in tab.console if "Content Security Policy" in line]


def wait_until(tab: Tab, happened: Callable[[], bool]) -> None:
    """Run the browser until a condition holds."""
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline, tab.console
        tab.page.wait_for_timeout(50)


def lit(locator: Any) -> list[str]:
    return locator.locator(".lit").all_inner_texts()


@in_a_browser
def test_hits_are_shown_in_order_with_scores(tab: Tab, base_url: str, stub: Stub) -> None:
    tab.page.goto(base_url)
    expect(tab.page.locator("#index-summary")).to_have_text("an-index · 1,234 documents · version 3 · a/model")
    expect(tab.page.locator("#columns")).to_have_text('Columns: year int64 · lang string · "the day" date')
    tab.page.get_by_label("Filter").fill("year > 2000")
    tab.page.get_by_label("Hits", exact=True).fill("25")
    tab.page.get_by_label("Effort").select_option("thorough")
    search(tab, "storm sea")
    hits = tab.page.locator(".hit")
    expect(hits).to_have_count(len(TEXTS))
    assert hits.locator(".id bdi").all_inner_texts() == list(TEXTS)
    assert hits.locator(".rank").all_inner_texts() == [*"123456"]
    assert hits.locator(".score-value").all_inner_texts()[:3] == ["20.500", "19.250", "18.000"]
    assert hits.locator(".title").all_inner_texts() == ["Storms", HOSTILE, "long", ARABIC, "unkept", "Pooled"]
    expect(hits.nth(0).locator(".metadata")).to_have_text(re.compile("year.*2021.*lang.*en"))
    # Larger than a safe integer in JavaScript.
    expect(hits.nth(2).locator(".metadata")).to_contain_text(str(2**62 + 1))
    expect(hits.nth(4).locator(".text")).to_have_text("The index does not store the text.")
    expect(tab.page.get_by_role("status")).to_have_text("6 hits")
    timings = tab.page.locator("#timings p")
    expect(timings).to_be_hidden()
    tab.page.get_by_text("Details", exact=True).click()
    expect(timings).to_have_text("version 3 · 4 of 4 shards · encode 4.2 ms · search 13 ms · total 17 ms")
    expect(tab.page.locator("#partial")).to_be_hidden()
    assert stub.bodies("/v1/search") == [
        {"query": "storm sea", "k": 25, "effort": "thorough", "filter": "year > 2000"},
    ]


@in_a_browser
def test_the_first_hit_is_explained_and_others_on_opening(tab: Tab, base_url: str, stub: Stub) -> None:
    tab.page.goto(base_url)
    search(tab, "storm sea")
    expect(hit(tab, "plain").locator(".chip")).to_have_count(4)
    assert stub.bodies("/v1/explain") == [{"query": "storm sea", "id": "plain"}]
    toggle = hit(tab, "long").get_by_role("button", name=re.compile("long"))
    expect(toggle).to_have_attribute("aria-expanded", "false")
    toggle.press("Enter")
    expect(hit(tab, "long").locator("mark")).to_have_count(3)
    expect(toggle).to_have_attribute("aria-expanded", "true")
    toggle.press("Enter")
    toggle.press("Enter")
    expect(hit(tab, "long").locator(".chip").first).to_be_visible()
    assert [body["id"] for body in stub.bodies("/v1/explain")] == ["plain", "long"]


@in_a_browser
def test_matched_tokens_are_marked_at_their_offsets_after_an_emoji(tab: Tab, base_url: str) -> None:
    tab.page.goto(base_url)
    search(tab, "storm sea")
    first = hit(tab, "plain")
    expect(first.locator("mark")).to_have_count(3)
    assert first.locator("mark").all_inner_texts() == ["[CLS]", "storm", "on."]
    # The text as it was encoded replaces the hit's text; its second "storm" is marked.
    title, text, _ = TEXTS["plain"]
    assert first.locator(".marked").inner_text() == f"[CLS]{title} {text}"
    assert first.locator(".marked").evaluate("box => box.childNodes[1].data").endswith("👩‍🚀 and the ")
    expect(first.locator(".text")).to_be_hidden()
    levels = [int(mark.get_attribute("data-level")) for mark in first.locator("mark").all()]
    assert levels == [5, 5, 2]
    assert first.locator(".chip").all_inner_texts() == [
        "storm\n0.950",
        "sea\n0.300",
        "[CLS]\n0.964",
        "[MASK]\n0.600",
    ]


@in_a_browser
def test_a_token_highlights_its_matches_in_both_directions(tab: Tab, base_url: str) -> None:
    tab.page.goto(base_url)
    search(tab, "storm sea")
    first = hit(tab, "plain")
    first.locator(".chip", has_text="sea").hover()
    assert lit(first) == ["sea\n0.300", "on."]
    expect(first.locator(".note")).to_have_text("“sea” matched “on.” 0.300")
    first.locator("mark", has_text="storm").hover()
    assert lit(first) == ["storm\n0.950", "[MASK]\n0.600", "storm"]
    expect(first.locator(".note")).to_have_text("“storm” was matched by “storm” 0.950, “[MASK]” 0.600")
    tab.page.get_by_label("Filter").hover()
    assert lit(first) == []
    expect(first.locator(".note")).to_have_text("4 matches, 2.814 in all.")
    # With the keyboard: one tab stop for query tokens, one for document tokens, arrows within.
    first.get_by_role("button", name=re.compile("Storms")).focus()
    tab.page.keyboard.press("Tab")
    assert lit(first) == ["storm\n0.950", "storm"]
    tab.page.keyboard.press("ArrowRight")
    assert lit(first) == ["sea\n0.300", "on."]
    tab.page.keyboard.press("Tab")
    assert lit(first) == ["[CLS]\n0.964", "[CLS]"]
    tab.page.keyboard.press("End")
    assert lit(first) == ["sea\n0.300", "on."]


@in_a_browser
@pytest.mark.parametrize("id_", ["unkept", "pooled"])
def test_without_document_tokens_only_query_tokens_have_scores(tab: Tab, base_url: str, id_: str) -> None:
    tab.page.goto(base_url)
    search(tab, "storm sea")
    # The layout is stable before hovering.
    expect(hit(tab, "plain").locator("mark")).to_have_count(3)
    opened = hit(tab, id_)
    opened.locator(".toggle").click()
    expect(opened.locator(".chip")).to_have_count(4)
    expect(opened.locator(".note")).to_contain_text("not known")
    expect(opened.locator("mark")).to_have_count(0)
    expect(opened.locator(".text")).to_be_visible()
    opened.locator(".chip", has_text="sea").hover()
    expect(opened.locator(".note")).to_have_text("“sea” matched 0.500")


@in_a_browser
def test_hostile_documents_are_shown_as_text(tab: Tab, base_url: str) -> None:
    tab.page.goto(base_url)
    search(tab, "storm sea")
    shown = hit(tab, "hostile")
    expect(shown.locator(".text")).to_have_text(f"storm {HOSTILE}")
    assert HOSTILE in shown.locator(".metadata").inner_text()
    for id_ in ("hostile", "long", "rtl"):
        hit(tab, id_).locator(".toggle").click()
        expect(hit(tab, id_).locator(".marked")).to_be_visible()
    assert shown.locator(".marked").inner_text() == f"[CLS]{HOSTILE} storm {HOSTILE}"
    assert tab.page.locator("main :is(script, img, svg)").count() == 0
    assert hit(tab, "rtl").locator("mark").all_inner_texts() == ["[CLS]", "العاصفة", ARABIC[-3:]]
    assert hit(tab, "rtl").locator(".title").evaluate("node => getComputedStyle(node).direction") == "rtl"
    for width in (1280, 400, 320):
        tab.page.set_viewport_size({"width": width, "height": 800})
        assert tab.page.evaluate("document.documentElement.scrollWidth") == width
    # As markup they would be blocked by the page's policy.
    markup = "<script>window.ran = 4</script><img src='data:,' onerror='window.ran = 5'>"
    tab.page.evaluate("text => document.body.append(document.createRange().createContextualFragment(text))", markup)
    # One violation each; the event handler's comes once its image has failed.
    wait_until(tab, lambda: len(refused(tab)) == 2)
    assert tab.page.evaluate("window.ran") is None
    tab.console[:] = [line for line in tab.console if line not in refused(tab)]


@in_a_browser
def test_partial_results_show_a_warning(tab: Tab, base_url: str) -> None:
    tab.page.goto(base_url)
    search(tab, "partial")
    expect(tab.page.locator("#partial")).to_be_visible()
    expect(tab.page.get_by_role("alert").filter(has_text="3 of 4 shards answered")).to_be_visible()
    search(tab, "storm")
    expect(tab.page.locator("#partial")).to_be_hidden()


@in_a_browser
def test_an_empty_result_is_announced(tab: Tab, base_url: str) -> None:
    tab.page.goto(base_url)
    search(tab, "nothing")
    expect(tab.page.get_by_role("status")).to_contain_text("No document found")


@in_a_browser
@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("broken", ["Shard unavailable", "shard 2 does not answer <b>at all</b>", "Request r-4711"]),
        ("busy", ["Too many requests", "the queue is full. Try again in 7 s."]),
        ("proxy", ["HTTP 502"]),
    ],
)
def test_an_error_replaces_the_hits_with_an_alert(tab: Tab, base_url: str, query: str, said: list[str]) -> None:
    tab.page.goto(base_url)
    search(tab, "storm")
    expect(tab.page.locator(".hit")).to_have_count(len(TEXTS))
    search(tab, query)
    alert = tab.page.get_by_role("alert").locator(".problem")
    for part in said:
        expect(alert).to_contain_text(part)
    expect(tab.page.locator(".hit")).to_have_count(0)
    search(tab, "storm")
    expect(tab.page.locator(".hit")).to_have_count(len(TEXTS))
    expect(alert).to_have_count(0)


@in_a_browser
def test_a_failed_explanation_is_shown_at_its_hit(tab: Tab, base_url: str) -> None:
    tab.page.goto(base_url)
    search(tab, "no explain")
    expect(hit(tab, "plain").get_by_role("alert")).to_contain_text("no document 'plain'")
    expect(tab.page.locator(".hit")).to_have_count(len(TEXTS))


@in_a_browser
def test_a_key_is_requested_sent_and_stored_in_the_tab_only(tab: Tab, base_url: str, stub: Stub) -> None:
    tab.page.goto(base_url)
    expect(tab.page.locator("#columns")).to_contain_text("year")
    expect(tab.page.locator("#key-panel")).to_be_hidden()
    stub.key = "s3cret"
    tab.page.goto(base_url)
    field = tab.page.locator("#key")
    expect(field).to_be_visible()
    search(tab, "storm")
    expect(tab.page.get_by_role("alert").locator(".problem")).to_contain_text("Unauthorized")
    expect(field).to_be_focused()
    assert set(stub.keys) == {None}
    field.fill("schlüssel ")
    field.press("Enter")
    assert field.evaluate("field => field.validity.customError")
    field.fill(" s3cret ")
    field.press("Enter")
    expect(tab.page.locator(".hit")).to_have_count(len(TEXTS))
    expect(tab.page.locator("#columns")).to_contain_text("year")
    assert stub.keys[-1] == "Bearer s3cret"
    assert "s3cret" not in tab.page.url
    assert tab.page.evaluate("[localStorage.length, document.cookie, Object.values(sessionStorage)]") == [
        0,
        "",
        ["s3cret"],
    ]
    tab.page.reload()
    expect(tab.page.locator(".hit")).to_have_count(len(TEXTS))
    tab.page.locator("#key-panel summary").click()
    tab.page.get_by_role("button", name="Forget").click()
    assert tab.page.evaluate("sessionStorage.length") == 0


@in_a_browser
def test_a_search_has_a_url_and_back_works(tab: Tab, base_url: str, stub: Stub) -> None:
    tab.page.goto(base_url)
    search(tab, "storm & sea?")
    expect(tab.page.locator(".hit")).to_have_count(len(TEXTS))
    assert parse_qs(urlsplit(tab.page.url).query) == {"q": ["storm & sea?"]}
    tab.page.get_by_label("Filter").fill("lang = 'en'")
    tab.page.get_by_label("Hits", exact=True).fill("3")
    tab.page.get_by_label("Effort").select_option("fast")
    search(tab, "nothing")
    expect(tab.page.get_by_role("status")).to_contain_text("No document found")
    linked = tab.page.url
    assert parse_qs(urlsplit(linked).query) == {
        "q": ["nothing"],
        "filter": ["lang = 'en'"],
        "k": ["3"],
        "effort": ["fast"],
    }
    tab.page.go_back()
    expect(tab.page.locator(".hit")).to_have_count(len(TEXTS))
    expect(tab.page.get_by_label("Query", exact=True)).to_have_value("storm & sea?")
    expect(tab.page.get_by_label("Filter")).to_have_value("")
    tab.page.go_back()
    expect(tab.page.locator(".hit")).to_have_count(0)
    expect(tab.page.get_by_label("Query", exact=True)).to_have_value("")
    tab.page.goto(linked)
    expect(tab.page.get_by_role("status")).to_contain_text("No document found")
    assert stub.bodies("/v1/search")[-1] == {"query": "nothing", "k": 3, "effort": "fast", "filter": "lang = 'en'"}
    # Invalid values fall back to the defaults.
    tab.page.goto(f"{base_url}/?q=storm&k=1e9&effort=heroic")
    expect(tab.page.locator(".hit")).to_have_count(len(TEXTS))
    assert stub.bodies("/v1/search")[-1] == {"query": "storm", "k": 10, "effort": "default"}


@in_a_browser
def test_a_new_search_cancels_the_previous_one(tab: Tab, base_url: str) -> None:
    tab.page.goto(base_url)
    search(tab, "slow")
    expect(tab.page.get_by_role("status")).to_contain_text("Searching")
    expect(tab.page.locator("#progress")).to_be_visible()
    expect(tab.page.locator("#hits")).to_have_attribute("aria-busy", "true")
    search(tab, "storm")
    expect(tab.page.locator(".hit")).to_have_count(len(TEXTS))
    expect(tab.page.locator("#progress")).to_be_hidden()
    assert [body["query"] for body in tab.aborted] == ["slow"]
    expect(tab.page.locator(".problem")).to_have_count(0)


@in_a_browser
def test_passages_are_listed_below_the_best_one_of_their_document(tab: Tab, base_url: str) -> None:
    tab.page.goto(f"{base_url}/?q=passages")
    expect(tab.page.get_by_role("status")).to_have_text("7 hits in 4 documents")
    best = tab.page.locator("#hits > .hit > article")
    assert best.locator(".id bdi").all_inner_texts() == ["b#1", "<b>#0", "b#x", "b"]
    assert best.locator(".rank").all_inner_texts() == [*"1234"]
    assert best.locator(".title").all_inner_texts() == ["Book B", HOSTILE, "b#x", "b"]
    # The parent is in a passage's id; elsewhere it is a column like any other.
    assert [text for text in tab.page.locator(".metadata").all_inner_texts() if text] == ["parentb"]
    book = hit(tab, "b#1")
    others = book.locator(".passages .hit")
    expect(others.first).to_be_hidden()
    book.get_by_text("2 more passages of this document").click()
    assert others.locator(".id bdi").all_inner_texts() == ["b#0", "b#10"]
    others.nth(1).get_by_role("button", name=re.compile("Passage 10")).press("Enter")
    expect(others.nth(1).locator(".marked")).to_have_text("the last storm of b")
    expect(others.nth(1).get_by_role("heading", level=3)).to_be_visible()
    tab.page.get_by_text("1 more passage of this document").click()
    assert tab.page.locator("main :is(script, img, svg)").count() == 0


@in_a_browser
def test_more_hits_follow_those_already_shown(tab: Tab, base_url: str, stub: Stub) -> None:
    tab.page.goto(f"{base_url}/?q=many")
    more = tab.page.get_by_role("button", name="More hits")
    hits = tab.page.locator(".hit")
    expect(hits).to_have_count(10)
    hits.nth(1).locator(".toggle").click()
    expect(hits.nth(1).locator(".marked")).to_be_visible()
    more.press("Enter")
    expect(hits).to_have_count(20)
    expect(hits.nth(10).locator(".toggle")).to_be_focused()
    expect(hits.nth(1).locator(".marked")).to_be_visible()
    assert hits.locator(".rank").all_inner_texts() == [str(n + 1) for n in range(20)]
    # After an error the hits are still there, and the button tries again.
    stub.broken_k = 30
    more.click()
    expect(tab.page.get_by_role("alert").locator(".problem")).to_contain_text("shard 2 does not answer")
    expect(hits).to_have_count(20)
    more.click()
    expect(hits).to_have_count(25)
    expect(tab.page.locator(".problem")).to_have_count(0)
    expect(more).to_be_hidden()
    assert [body["k"] for body in stub.bodies("/v1/search")] == [10, 20, 30, 30]
    assert [body["id"] for body in stub.bodies("/v1/explain")] == ["n0", "n1"]
    # A new search starts again with as many hits as the form says.
    search(tab, "storm")
    expect(hits).to_have_count(len(TEXTS))
    expect(more).to_be_hidden()
    assert stub.bodies("/v1/search")[-1]["k"] == 10
    tab.page.goto(f"{base_url}/?q=many&k=1000")
    expect(hits).to_have_count(25)
    expect(more).to_be_hidden()


@in_a_browser
def test_closed_hits_highlight_their_best_sentence(tab: Tab, base_url: str) -> None:
    tab.page.goto(base_url)
    search(tab, "the keeper is parsing dates")
    far, near, neither = (hit(tab, id_) for id_ in SENTENCES)
    expect(near.locator(".best")).to_have_text("The keeper's dates were\nright.")
    expect(near.locator(".text")).to_have_text(SENTENCES["near"])
    expect(neither.locator(".best")).to_have_count(0)
    expect(far.locator(".marked")).to_be_visible()
    far.locator(".toggle").click()
    expect(far.locator(".best")).to_be_visible()
    # Only the beginning of a long text is searched, up to a whole character.
    find = "async (text) => (await import('./excerpt.js')).sentencesOf(text)"
    assert tab.page.evaluate(find, "a" * 9_999 + "\N{LADY BEETLE}")[-1]["end"] == 9_999
    assert tab.page.evaluate(find, "a" * 9_998 + "\N{LADY BEETLE}" * 2)[-1]["end"] == 10_000
    # Markup in a text is text, and what is far above the sentence is cut.
    expect(far.locator(".best")).to_have_text("A lighthouse keeper <b>parsed</b> the dates of the storm.")
    shown = far.locator(".text").inner_text()
    assert shown.startswith("… The sea is the sea")
    assert shown.index("A lighthouse") < 200
    far.locator(".toggle").click()
    expect(far.locator(".marked")).to_have_text(SENTENCES["far"])


@in_a_browser
def test_an_explanation_corrects_the_highlighted_sentence(tab: Tab, base_url: str) -> None:
    tab.page.goto(base_url)
    # By its words the second hit's second sentence; by the explanation, which knows no "keepers", its last word.
    search(tab, "keepers")
    near = hit(tab, "near")
    expect(near.locator(".best")).to_have_text("The keeper's dates were\nright.")
    near.locator(".toggle").click()
    expect(near.locator(".marked")).to_be_visible()
    near.locator(".toggle").click()
    expect(near.locator(".best")).to_have_text("The rest is the sea.")


@in_a_browser
def test_padding_tokens_share_a_chip(tab: Tab, base_url: str) -> None:
    tab.page.goto(f"{base_url}/?q=keeper+lighthouse")
    first = hit(tab, "far")
    expect(first.locator(".chip")).to_have_count(4)
    assert first.locator(".chip").all_inner_texts() == [
        "keeper\n0.500",
        "lighthouse\n0.500",
        "24 \u00d7\n[MASK]\n12.000",
        "[SEP]\n0.500",
    ]
    first.locator(".chip", has_text="[MASK]").hover()
    assert lit(first) == ["24 \u00d7\n[MASK]\n12.000", "you"]
    expect(first.locator(".note")).to_have_text("“[MASK]” matched “you” 12.000 (24 times)")
    first.locator("mark", has_text=re.compile("^you$")).hover()
    expect(first.locator(".note")).to_have_text("“you” was matched by “[MASK]” 12.000 (24 times), “[SEP]” 0.500")


@in_a_browser
def test_the_empty_screen_offers_beginnings_of_documents(tab: Tab, base_url: str, stub: Stub) -> None:
    tab.page.goto(base_url)
    examples = tab.page.locator("#examples").get_by_role("button")
    expect(examples).to_have_count(len(TEXTS) - 1)  # the document without title and text is none
    assert stub.for_examples() == [{"embeddings": [[[1] + [0] * 95]], "k": 4, "effort": "fast"}]
    assert all(len(text) <= 80 for text in examples.all_inner_texts())
    hostile = examples.nth(1).inner_text()
    assert HOSTILE.startswith(hostile)
    assert examples.nth(2).inner_text().startswith("storm www")
    assert examples.nth(3).evaluate("node => getComputedStyle(node).direction") == "rtl"
    examples.nth(1).click()
    expect(tab.page.locator(".hit")).to_have_count(len(TEXTS))
    expect(tab.page.get_by_label("Query", exact=True)).to_have_value(hostile)
    expect(examples.first).to_be_hidden()
    assert tab.page.locator("main :is(script, img, svg)").count() == 0
    # A page that starts with a search asks for none.
    tab.page.reload()
    expect(tab.page.locator(".hit")).to_have_count(len(TEXTS))
    expect(tab.page.locator("#columns")).to_contain_text("year")
    assert len(stub.for_examples()) == 1


@in_a_browser
def test_without_examples_the_empty_screen_is_a_hint(tab: Tab, base_url: str, stub: Stub) -> None:
    stub.no_examples = True
    tab.page.goto(base_url)
    wait_until(tab, lambda: bool(stub.for_examples()))
    expect(tab.page.locator("#start")).to_contain_text("Ask in your own words")
    expect(tab.page.locator("#examples")).to_be_hidden()
    expect(tab.page.locator(".problem")).to_have_count(0)
    # An index without a model takes no texts.
    stub.model = None
    tab.page.goto(base_url)
    expect(tab.page.locator("#index-summary")).to_have_text("an-index · 1,234 documents · version 3")
    assert len(stub.for_examples()) == 1


@in_a_browser
def test_the_api_is_described_and_can_be_tried(tab: Tab, base_url: str, stub: Stub) -> None:
    stub.key = "s3cret"
    tab.page.goto(f"{base_url}/api.html")
    expect(tab.page.get_by_role("alert")).to_contain_text("Unauthorized")
    expect(tab.page.locator("#key")).to_be_focused()
    tab.page.locator("#key").fill("s3cret")
    tab.page.locator("#key").press("Enter")
    listed = tab.page.locator(".operation > summary > code")
    expect(listed.first).to_be_visible()
    documented = [f"{m.upper()} {path}" for path, methods in api.openapi()["paths"].items() for m in methods]
    assert listed.all_inner_texts() == documented
    described = tab.page.locator(".operation").filter(has_text="POST /v1/search")
    described.locator("summary").click()
    expect(described).to_contain_text("k integer from 1 to 1000, by default 10")
    expect(described).to_contain_text("SearchHit")
    described.get_by_label("Body").fill('{"query": "it\'s <b>a</b> storm", "k": 3}')
    expect(described.locator("pre").first).to_have_text(
        f"curl -H 'Authorization: Bearer KEY' '{base_url}/v1/search'"
        ' --json \'{"query": "it\'\\\'\'s <b>a</b> storm", "k": 3}\''
    )
    described.get_by_role("button", name="Send").click()
    expect(described.get_by_role("status")).to_contain_text(HOSTILE.replace('"', '\\"'))
    assert stub.bodies("/v1/search") == [{"query": "it's <b>a</b> storm", "k": 3}]
    described.get_by_label("Body").fill("{")
    described.get_by_role("button", name="Send").click()
    expect(described.get_by_role("status")).to_contain_text("The body is not JSON")
    described.get_by_label("Body").fill("null")
    described.get_by_role("button", name="Send").click()
    expect(described.get_by_role("status")).to_contain_text("HTTP 422")
    assert tab.page.locator("main :is(script, img, svg, b)").count() == 0
    # Paths that change the endpoint have no button.
    admin = tab.page.locator(".operation").filter(has_text="/v1/admin/version")
    admin.locator("summary").click()
    expect(admin.locator("pre")).to_contain_text("/v1/admin/version")
    expect(admin.get_by_role("button")).to_have_count(0)
    for width in (1280, 320):
        tab.page.set_viewport_size({"width": width, "height": 800})
        assert tab.page.evaluate("document.documentElement.scrollWidth") == width
