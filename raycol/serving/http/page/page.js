// The search page: reads the form and the URL, calls the endpoint, renders the response.
// External content is inserted as text only, so that no document can run or load anything.

const KEY = "raycol-key"; // in sessionStorage
const LEVELS = 5; // shades of a match, in page.css
const STEPS = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1, Home: -Infinity, End: Infinity };
const element = (id) => document.getElementById(id);
const form = element("search-form");
const fields = Object.fromEntries(["q", "filter", "k", "effort"].map((name) => [name, form.elements[name]]));
const defaults = readForm();

let running = new AbortController(); // the latest search and the explanations of its hits
let described; // the version whose columns are shown: undefined while loading, null if loading failed

// ---------------------------------------------------------------- requests

/** An error response. */
class Refusal extends Error {
  constructor(status, { title, detail, request_id }) {
    super(title);
    Object.assign(this, { status, title, detail, request: request_id });
  }
}

function storedKey() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return element("key").value; // storage is disabled: read the field
  }
}

function storeKey(key) {
  try {
    if (key) sessionStorage.setItem(KEY, key);
    else sessionStorage.removeItem(KEY);
  } catch {
    // Storage is disabled.
  }
}

/** JSON.parse reviver: keeps integers that a JavaScript number would round as source text. */
function exact(name, value, context) {
  return Number.isInteger(value) && !Number.isSafeInteger(value) && context?.source ? context.source : value;
}

/** Returns the JSON response. Throws a Refusal, or an AbortError once `signal` is aborted. */
async function ask(path, signal, body) {
  const headers = { Accept: "application/json, application/problem+json" };
  const key = storedKey();
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body) headers["Content-Type"] = "application/json";
  let response, content;
  try {
    const method = body ? "POST" : "GET";
    response = await fetch(path, { method, headers, signal, body: body && JSON.stringify(body) });
    content = await response.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Refusal(0, { title: "No answer", detail: "The endpoint cannot be reached." });
  }
  let answer;
  try {
    answer = JSON.parse(content, exact);
  } catch {
    answer = null;
  }
  if (response.ok && answer !== null) return answer;
  const wait = response.headers.get("Retry-After");
  const problem = typeof answer?.title === "string" ? answer : unnamed(response);
  const detail = [problem.detail, wait && /^\d+$/.test(wait) ? `Try again in ${wait} s.` : ""];
  throw new Refusal(response.status, { ...problem, detail: detail.filter(Boolean).join(" ") });
}

/** A problem for a response that is not problem+json, such as a proxy's. */
function unnamed(response) {
  return { title: `HTTP ${response.status}`, detail: response.ok ? "The response is not JSON." : response.statusText };
}

// ---------------------------------------------------------------- form and URL

function readForm() {
  return Object.fromEntries(Object.entries(fields).map(([name, field]) => [name, field.value]));
}

function readAddress() {
  const given = new URLSearchParams(location.search);
  for (const [name, field] of Object.entries(fields)) {
    field.value = given.get(name) ?? defaults[name];
    const known = field.validity.valid && field.selectedIndex !== -1;
    if (!known && name !== "q") field.value = defaults[name];
  }
}

/** The form as a URL query, without default values. */
function address(state) {
  const given = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) {
    if (value.trim() && value !== defaults[name]) given.set(name, value);
  }
  return String(given) ? `?${given}` : location.pathname;
}

function submit() {
  const target = new URL(address(readForm()), location.href);
  if (target.href !== location.href) history.pushState(null, "", target);
  search();
}

function followAddress() {
  readAddress();
  search();
}

// ---------------------------------------------------------------- search

async function search() {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  const { q: query, filter, k, effort } = readForm();
  document.title = query.trim() ? `${query} - raycol` : "raycol";
  element("problem").replaceChildren();
  element("partial").hidden = true;
  if (!query.trim()) {
    show([], []);
    return;
  }
  element("status").replaceChildren("Searching\u2026");
  busy(true);
  const body = { query, k: Number(k), effort };
  if (filter.trim()) body.filter = filter;
  try {
    const answer = await ask("v1/search", signal, body);
    showAnswer(answer, query, signal);
  } catch (error) {
    if (signal.aborted) return;
    show([], []);
    element("problem").replaceChildren(problem(error));
    askForKey(error, true);
  }
}

function busy(is) {
  element("progress").hidden = !is;
  element("hits").setAttribute("aria-busy", String(is));
}

function show(status, hits) {
  busy(false);
  element("status").replaceChildren(...status);
  element("hits").replaceChildren(...hits);
}

function showAnswer(answer, query, signal) {
  const found = answer.results[0];
  const { total, answered } = answer.shards;
  const stages = Object.entries(answer.took_ms).map(([stage, ms]) => `${stage} ${milliseconds(ms)}`);
  const about = [`version ${answer.version}`, `${answered} of ${counted(total, "shard")}`, ...stages];
  const hits = found.map((hit, place) => showHit(hit, place + 1, answer.version, query, signal));
  const count = found.length ? counted(found.length, "hit") : "No document found";
  show(
    [make("strong", "", count), ...about.flatMap((text) => [" ", make("span", "", text)])],
    hits.map((hit) => hit.item),
  );
  if (answer.partial) {
    element("partial").textContent =
      `Partial results: ${answered} of ${counted(total, "shard")} answered. Documents of the other shards are missing.`;
    element("partial").hidden = false;
  }
  hits[0]?.toggle();
  if (described !== undefined && described !== answer.version) describe();
}

function showHit(hit, rank, version, query, signal) {
  const item = element("hit-template").content.cloneNode(true).firstElementChild;
  const part = (name) => item.querySelector(name);
  const title = typeof hit.metadata.title === "string" && hit.metadata.title.trim() ? hit.metadata.title : null;
  part(".rank").textContent = rank;
  part(".title").textContent = title ?? hit.id;
  part(".score-value").textContent = decimal(hit.score);
  part(".id bdi").textContent = hit.id;
  part(".text").textContent = hit.text ?? "The index does not store the text.";
  part(".text").classList.toggle("missing", hit.text === null);
  for (const [name, value] of Object.entries(hit.metadata)) {
    if (name === "title" && title !== null) continue;
    const pair = make("div", "");
    const shown = typeof value === "object" ? JSON.stringify(value) : String(value);
    pair.append(make("dt", "", name), make("dd", "", shown));
    pair.lastChild.dir = "auto";
    part(".metadata").append(pair);
  }
  const button = part(".toggle");
  const explanation = part(".explanation");
  explanation.id = `explanation-${rank}`;
  button.setAttribute("aria-controls", explanation.id);
  let asked = false;

  async function explain() {
    asked = true;
    explanation.replaceChildren(make("p", "quiet", "Matching tokens\u2026"));
    try {
      const answer = await ask("v1/explain", signal, { query, id: hit.id });
      explanation.replaceChildren(showExplanation(answer, version));
      // The explanation shows the text as it was encoded; hide the hit's.
      part(".text").hidden = explanation.querySelector(".marked") !== null;
    } catch (error) {
      if (signal.aborted) return;
      asked = false; // retry when reopened
      explanation.replaceChildren(problem(error));
      explanation.firstChild.setAttribute("role", "alert");
      askForKey(error, false);
    }
  }

  function toggle() {
    const open = item.classList.toggle("open");
    button.setAttribute("aria-expanded", String(open));
    explanation.hidden = !open;
    part(".text").hidden = open && explanation.querySelector(".marked") !== null;
    if (open && !asked) explain();
  }

  button.addEventListener("click", toggle);
  return { item, toggle };
}

// ---------------------------------------------------------------- which token matched which

/** The UTF-16 index of each code point: token offsets count code points. */
function codePointStarts(text) {
  const starts = [0];
  for (const point of text) starts.push(starts.at(-1) + point.length);
  return starts;
}

/** Splits the text at token boundaries: each piece with the tokens that cover it. */
function cut(text, tokens) {
  const starts = codePointStarts(text);
  const last = starts.length - 1;
  const spans = tokens.map(({ start, end }) => ({ start: Math.min(start, last), end: Math.min(end, last) }));
  const cuts = [...new Set([0, last, ...spans.flatMap(({ start, end }) => [start, end])])].sort((a, b) => a - b);
  return cuts.slice(1).map((end, place) => {
    const start = cuts[place];
    const covering = tokens.filter((_, n) => spans[n].start <= start && end <= spans[n].end);
    return { text: text.slice(starts[start], starts[end]), covering };
  });
}

/** A fragment with the query tokens, a note on the active token, and the text with matched tokens marked. */
function showExplanation(answer, version) {
  const fragment = element("explanation-template").content.cloneNode(true);
  const [chips, note, marked] = fragment.children;
  const known = answer.text !== null && answer.document_tokens !== null;
  const top = Math.max(...answer.matches.map((match) => match.score));
  const shade = (node, matches) => {
    const score = Math.max(...matches.map((match) => match.score));
    if (score > 0) node.dataset.level = Math.min(LEVELS, Math.ceil((LEVELS * score) / top));
    return node;
  };

  const ofQuery = grouped(answer.matches, "query_token");
  const tokens = answer.query_tokens.map((token, index) => ({ ...token, index, matches: ofQuery.get(index) ?? [] }));
  const chip = (token) => {
    const node = shade(make("button", "chip"), token.matches);
    node.type = "button";
    node.dataset.query = token.index;
    node.classList.toggle("added", isAdded(token));
    const score = token.matches.length ? decimal(sum(token.matches)) : "\u2013";
    node.append(make("bdi", "", token.text), " ", make("span", "chip-score", score));
    return node;
  };
  const added = tokens.filter(isAdded);
  chips.append(...tokens.filter((token) => !isAdded(token)).map(chip));
  if (added.length && added.length < tokens.length) chips.append(make("span", "break"));
  chips.append(...added.map(chip));

  const nameOf = new Map(); // of the document's tokens
  if (known) {
    const ofDocument = grouped(answer.matches, "document_token");
    const matched = [...ofDocument]
      .filter(([index]) => index in answer.document_tokens)
      .map(([index, matches]) => ({ ...answer.document_tokens[index], index, matches }));
    const mark = (text, covering) => {
      const node = shade(make("mark", "", text), covering.flatMap((token) => token.matches));
      node.tabIndex = -1;
      node.dataset.document = covering.map((token) => token.index).join(" ");
      return node;
    };
    for (const token of matched.filter(isAdded)) {
      nameOf.set(token.index, token.text);
      marked.append(mark(token.text, [token]));
      marked.lastChild.classList.add("added");
    }
    for (const { text, covering } of cut(answer.text, matched.filter((token) => !isAdded(token)))) {
      for (const { index } of covering) nameOf.set(index, (nameOf.get(index) ?? "") + text);
      marked.append(covering.length ? mark(text, covering) : text);
    }
  } else {
    marked.remove();
  }

  const remarks = [`${counted(answer.matches.length, "match", "matches")}, ${decimal(answer.score)} in all.`];
  if (!known) {
    remarks.push(
      "The matched document tokens are not known: " +
        "the index does not store the text, or its embeddings are pooled.",
    );
  }
  if (answer.version !== version) remarks.push(`Explained by version ${answer.version}; the hits are from version ${version}.`);
  link(chips, marked, note, answer, nameOf, remarks.join(" "));
  return fragment;
}

/** Highlights the matches of the hovered or focused token and describes them in the note. */
function link(chips, marked, note, answer, nameOf, otherwise) {
  const sides = [chips, marked];
  const indices = (node) => (node.dataset.query ?? node.dataset.document).split(" ").map(Number);
  const token = (target) => target.closest?.("[data-query], [data-document]");

  function light(node) {
    const key = node && "query" in node.dataset ? "query_token" : "document_token";
    const matches = node ? answer.matches.filter((match) => indices(node).includes(match[key])) : [];
    const queryTokens = new Set(matches.map((match) => match.query_token));
    const documentTokens = new Set(matches.map((match) => match.document_token));
    for (const other of sides.flatMap((side) => [...side.querySelectorAll("[data-query], [data-document]")])) {
      const side = "query" in other.dataset ? queryTokens : documentTokens;
      other.classList.toggle("lit", other === node || indices(other).some((index) => side.has(index)));
    }
    note.replaceChildren(...(node ? describeMatches(node, key, matches) : [otherwise]));
    if (key === "query_token") reveal(marked.querySelector(".lit"));
  }

  function describeMatches(node, key, matches) {
    const name = (text) => make("bdi", "", `\u201c${text.trim() || text}\u201d`);
    const own = key === "query_token" ? answer.query_tokens[indices(node)[0]].text : node.textContent;
    if (!matches.length) return [name(own), " matched nothing"];
    const ends = matches
      .toSorted((a, b) => b.score - a.score)
      .flatMap((match, place) => {
        const other =
          key === "query_token" ? nameOf.get(match.document_token) : answer.query_tokens[match.query_token]?.text;
        return [place ? ", " : " ", ...(other === undefined ? [] : [name(other), " "]), decimal(match.score)];
      });
    return [name(own), key === "query_token" ? " matched" : " was matched by", ...ends];
  }

  /** Scrolls the text box only, not the page. */
  function reveal(node) {
    if (!node) return;
    const box = marked.getBoundingClientRect();
    const place = node.getBoundingClientRect();
    if (place.top < box.top || place.bottom > box.bottom) {
      marked.scrollTop += place.top - box.top - marked.clientHeight / 3;
    }
  }

  for (const side of sides) {
    const items = [...side.querySelectorAll("[data-query], [data-document]")];
    if (items.length) items[0].tabIndex = 0;
    for (const item of items.slice(1)) item.tabIndex = -1;
    side.addEventListener("pointerover", (event) => light(token(event.target) ?? focused()));
    side.addEventListener("pointerleave", () => light(focused()));
    side.addEventListener("focusin", (event) => {
      for (const item of items) item.tabIndex = item === event.target ? 0 : -1;
      light(token(event.target));
    });
    side.addEventListener("focusout", () => light(null));
    // One tab stop per side; arrow keys move between tokens.
    side.addEventListener("keydown", (event) => {
      const step = STEPS[event.key];
      const place = items.indexOf(event.target);
      if (step === undefined || place < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      items[Math.min(Math.max(place + step, 0), items.length - 1)].focus();
    });
  }

  function focused() {
    const active = token(document.activeElement ?? document.body);
    return active && sides.some((side) => side.contains(active)) ? active : null;
  }

  light(null);
}

/** Whether a token is not part of the text: a special token or query padding. */
function isAdded(token) {
  return token.end <= token.start;
}

// ---------------------------------------------------------------- index, key, problems

async function describe() {
  let index;
  described = undefined;
  try {
    index = await ask("v1/index");
  } catch (error) {
    described = null;
    element("index-summary").textContent = "";
    element("columns").textContent = wantsKey(error)
      ? "Enter an API key to list the columns."
      : `Cannot list the columns: ${error.title ?? error.message}`;
    askForKey(error, false);
    return;
  }
  described = index.version;
  const about = [`${counted(index.documents, "document")}`, `version ${index.version}`, index.model];
  element("index-summary").textContent = about.filter((part) => part !== null).join(" \u00b7 ");
  const columns = Object.entries(index.columns).flatMap(([name, type], place) => [
    place ? " \u00b7 " : "",
    make("code", "", /^[A-Za-z_]\w*$/.test(name) ? name : `"${name.replaceAll('"', '""')}"`),
    ` ${type}`,
  ]);
  if (columns.length) element("columns").replaceChildren("Columns: ", ...columns);
  else element("columns").textContent = "The index has no columns to filter by.";
}

const wantsKey = (error) => error.status === 401 || error.status === 403;

function askForKey(error, searching) {
  if (!wantsKey(error)) return;
  element("key-panel").open = true;
  if (searching) element("key").focus();
}

function useKey(event) {
  event.preventDefault();
  const field = element("key");
  const key = field.value.trim();
  // The browser silently rejects other characters in a header.
  field.setCustomValidity(/^[\x21-\x7e]*$/.test(key) ? "" : "A key has letters, digits and punctuation, without spaces.");
  if (!field.reportValidity()) return;
  field.value = key;
  storeKey(key);
  describe();
  submit();
}

function forgetKey() {
  element("key").value = "";
  element("key").setCustomValidity("");
  storeKey("");
}

function problem(error) {
  const unexpected = { title: "Unexpected response", detail: error.message };
  const refusal = error instanceof Refusal ? error : new Refusal(0, unexpected);
  const node = element("problem-template").content.cloneNode(true).firstElementChild;
  node.querySelector(".problem-title").textContent = refusal.title;
  node.querySelector(".problem-detail").textContent = refusal.detail ?? "";
  node.querySelector(".problem-request").textContent = refusal.request ? `Request ${refusal.request}` : "";
  return node;
}

// ---------------------------------------------------------------- helpers

function make(tag, className, text = "") {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.textContent = text;
  return node;
}

function grouped(matches, key) {
  const groups = new Map();
  for (const match of matches) groups.set(match[key], [...(groups.get(match[key]) ?? []), match]);
  return groups;
}

const sum = (matches) => matches.reduce((total, match) => total + match.score, 0);
const decimal = (number) => number.toFixed(3);
const milliseconds = (ms) => `${ms < 10 ? ms.toFixed(1) : Math.round(ms).toLocaleString("en")} ms`;
const counted = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

element("key").value = storedKey();
element("key").addEventListener("input", (event) => event.target.setCustomValidity(""));
element("key-form").addEventListener("submit", useKey);
element("forget-key").addEventListener("click", forgetKey);
form.addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
addEventListener("popstate", followAddress);
describe();
// Not the autofocus attribute: browsers log a warning if another element has the focus.
if (document.activeElement === document.body) element("q").focus();
followAddress();
