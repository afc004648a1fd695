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


SCRIPTS = ["api.js", "endpoint.js", "excerpt.js", "explanation.js", "hits.js", "page.js"]


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


def canned_search(query: str) -> SearchResponse:
    hits = [
        SearchHit(
            id=id_,
            score=20.5 - 1.25 * place,
            text=text,
            metadata=({} if title is None else {"title": title}) | metadata,
        )
        for place, (id_, (title, text, metadata)) in enumerate(TEXTS.items())
    ]
    partial = query == "partial"
    return SearchResponse(
        results=[[] if query == "nothing" else hits],
        version=3,
        partial=partial,
        shards=ShardCount(total=4, answered=3 if partial else 4),
        took_ms={"encode": 4.21, "search": 12.9, "total": 17.11},
    )


def canned_explain(id_: str) -> ExplainResponse:
    """For the query "storm sea": its words match the document's second "storm" and its last word."""
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
            model="a/model",
        )

    async def _search(self, request: SearchRequest) -> Any:
        if request.query == "slow":
            await asyncio.sleep(5)
        if request.query == "broken":
            return self._problem(503, "Shard unavailable", "shard 2 does not answer <b>at all</b>")
        if request.query == "busy":
            return self._problem(429, "Too many requests", "the queue is full.")
        if request.query == "proxy":
            return Response("<html>502</html>", 502, media_type="text/html")
        return canned_search(request.query or "")

    async def _explain(self, request: ExplainRequest) -> Any:
        if request.query == "no explain":
            return self._problem(404, "Not found", f"no document {request.id!r}")
        return canned_explain(request.id)


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
def browser(base_url: str) -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture
def tab(browser: Any, stub: Stub) -> Iterator[Tab]:
    """A tab; checks afterwards that no request left this machine and no content was blocked by the policy."""
    stub.reset()
    tab = Tab(browser, viewport={"width": 1280, "height": 900})
    yield tab
    loaded = tab.page.evaluate("performance.getEntries().map((entry) => entry.name)")
    addresses = [address for address in tab.requests + loaded if re.match(r"\w+://", address)]
    assert addresses
    assert {urlsplit(address).hostname for address in addresses} == {"127.0.0.1"}
    assert tab.page.evaluate("window.ran") is None
    # The browser itself logs error responses.
    allowed = re.compile(
        r"error: Failed to load resource: the server responded with a status of (401|404|429|502|503)"
    )
    assert [line for line in tab.console if not allowed.match(line)] == []
    tab.context.close()


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
    given_up: list[str] = []
    tab.page.on("requestfailed", lambda request: given_up.append(request.post_data_json["query"]))
    tab.page.goto(base_url)
    search(tab, "slow")
    expect(tab.page.get_by_role("status")).to_contain_text("Searching")
    expect(tab.page.locator("#progress")).to_be_visible()
    expect(tab.page.locator("#hits")).to_have_attribute("aria-busy", "true")
    search(tab, "storm")
    expect(tab.page.locator(".hit")).to_have_count(len(TEXTS))
    expect(tab.page.locator("#progress")).to_be_hidden()
    assert given_up == ["slow"]
    expect(tab.page.locator(".problem")).to_have_count(0)
