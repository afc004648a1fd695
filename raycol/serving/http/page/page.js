// The search page: reads the form and the URL, calls the endpoint, lists the hits.
// External content is inserted as text only, so that no document can run or load anything.

import { ask, counted, element, make, milliseconds, problem, wantsKey } from "./endpoint.js";
import { wordWeights } from "./excerpt.js";
import { byDocument, HitItem } from "./hits.js";
import { askForKey, connectKeyPanel } from "./key.js";

const EXAMPLES = 4;
const EXAMPLE_WORDS = 10;
const EXAMPLE_CHARACTERS = 80;
const form = element("search-form");
const fields = Object.fromEntries(["q", "filter", "k", "effort"].map((name) => [name, form.elements[name]]));
const defaults = readForm();

let running = new AbortController(); // the latest search and the explanations of its hits
let latest; // the latest search: its body, hits by id, and what they need
let described; // the version whose columns are shown: undefined while loading, null if loading failed

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

function search() {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  const { q: query, filter, k, effort } = readForm();
  const empty = !query.trim();
  document.title = empty ? "raycol" : `${query} - raycol`;
  element("start").hidden = !empty;
  if (empty) {
    latest = undefined;
    clear();
    return;
  }
  const body = { query, k: Number(k), effort };
  if (filter.trim()) body.filter = filter;
  latest = { query, body, signal, step: body.k, items: new Map(), askForKey: (error) => askForKey(error, false) };
  load(latest);
}

/** Asks for more hits: the ones already shown stay, open or closed. */
function more() {
  latest.body.k += latest.step;
  load(latest);
}

async function load(search) {
  element("problem").replaceChildren();
  element("partial").hidden = true;
  element("timings").hidden = true;
  element("status").replaceChildren("Searching\u2026");
  busy(true);
  try {
    const k = Math.min(search.body.k, Number(fields.k.max));
    showAnswer(await ask("v1/search", search.signal, { ...search.body, k }), search);
  } catch (error) {
    if (search.signal.aborted) return;
    if (search.items.size) stay(search);
    else clear();
    element("problem").replaceChildren(problem(error));
    askForKey(error, true);
  }
}

/** Keeps the hits already shown after asking for more has failed; the button tries again. */
function stay(search) {
  busy(false);
  search.body.k -= search.step;
  element("status").replaceChildren(counted(search.items.size, "hit"));
}

function busy(is) {
  element("progress").hidden = !is;
  element("hits").setAttribute("aria-busy", String(is));
  element("more").disabled = is;
}

function clear() {
  busy(false);
  element("problem").replaceChildren();
  for (const id of ["status", "hits"]) element(id).replaceChildren();
  for (const id of ["partial", "timings", "more"]) element(id).hidden = true;
}

function showAnswer(answer, search) {
  const found = answer.results[0];
  const { total, answered } = answer.shards;
  const known = search.version === answer.version ? search.items : new Map();
  search.version = answer.version;
  search.weights ??= wordWeights(search.query, found.flatMap(({ text }) => text ?? []));
  const first = found.find((hit) => !known.has(hit.id));
  search.items = new Map(found.map((hit) => [hit.id, known.get(hit.id) ?? new HitItem(hit, search)]));
  const documents = byDocument(found).map((hits) => hits.map((hit) => search.items.get(hit.id)));
  busy(false);
  element("hits").replaceChildren(...documents.map(([best, ...others], place) => best.place(place + 1, others)));
  const within = documents.length < found.length ? ` in ${counted(documents.length, "document")}` : "";
  element("status").replaceChildren(found.length ? counted(found.length, "hit") + within : "No document found");
  const stages = Object.entries(answer.took_ms).map(([stage, ms]) => `${stage} ${milliseconds(ms)}`);
  const details = [`version ${answer.version}`, `${answered} of ${counted(total, "shard")}`, ...stages];
  element("timings").hidden = false;
  element("timings").lastElementChild.replaceChildren(
    ...details.flatMap((text, place) => [place ? " \u00b7 " : "", make("span", "", text)]),
  );
  if (answer.partial) {
    element("partial").textContent =
      `Partial results: ${answered} of ${counted(total, "shard")} answered. Documents of the other shards are missing.`;
    element("partial").hidden = false;
  }
  element("more").hidden = found.length < search.body.k || search.body.k >= Number(fields.k.max);
  if (search.body.k > search.step) focusOn(search.items.get((first ?? found.at(-1))?.id));
  else documents[0]?.[0].toggle();
  if (described !== undefined && described !== answer.version) describe();
}

/** Moves the focus from the button for more hits to the first new one. */
function focusOn(hit) {
  if (!hit) return;
  const passages = hit.item.closest(".passages");
  if (passages) passages.open = true;
  hit.button.focus();
}

// ---------------------------------------------------------------- index, examples

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
  const about = [index.name, counted(index.documents, "document"), `version ${index.version}`, index.model];
  element("index-summary").replaceChildren(
    ...about.filter(Boolean).flatMap((part, place) => [place ? " \u00b7 " : "", make("bdi", "", part)]),
  );
  const columns = Object.entries(index.columns).flatMap(([name, type], place) => [
    place ? " \u00b7 " : "",
    make("code", "", /^[A-Za-z_]\w*$/.test(name) ? name : `"${name.replaceAll('"', '""')}"`),
    ` ${type}`,
  ]);
  if (columns.length) element("columns").replaceChildren("Columns: ", ...columns);
  else element("columns").textContent = "The index has no columns to filter by.";
  if (index.model !== null && !latest) suggest(index.dim);
}

/** Offers the beginnings of a few documents as queries: those nearest to one axis, which needs no encoder. */
async function suggest(dim) {
  const axis = Array.from({ length: dim }, (_, n) => (n ? 0 : 1));
  let answer;
  try {
    answer = await ask("v1/search", undefined, { embeddings: [[axis]], k: EXAMPLES, effort: "fast" });
  } catch {
    return; // examples are not worth a message
  }
  const examples = [...new Set(answer.results[0].map(beginning))].filter(Boolean);
  element("examples").hidden = !examples.length;
  element("examples").lastElementChild.replaceChildren(
    ...examples.map((text) => {
      const button = make("button", "example", text);
      button.type = "button";
      button.dir = "auto";
      button.addEventListener("click", () => {
        fields.q.value = text;
        submit();
      });
      const item = make("li", "");
      item.append(button);
      return item;
    }),
  );
}

/** A document's title, or else the first words of its text. */
function beginning({ text, metadata }) {
  const title = typeof metadata.title === "string" ? metadata.title : "";
  const words = (title.trim() || (text ?? "").slice(0, 500)).trim().split(/\s+/u).slice(0, EXAMPLE_WORDS);
  return [...words.join(" ")].slice(0, EXAMPLE_CHARACTERS).join("").replace(/[\s.,;:]+$/u, "");
}

connectKeyPanel(() => {
  describe();
  submit();
});
element("more").addEventListener("click", more);
form.addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
addEventListener("popstate", followAddress);
// Not the autofocus attribute: browsers log a warning if another element has the focus.
if (document.activeElement === document.body) element("q").focus();
followAddress();
describe();
