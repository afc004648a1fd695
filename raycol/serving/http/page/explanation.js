// Which token matched which: the explanation of an open hit.

import { counted, decimal, make } from "./endpoint.js";

const LEVELS = 5; // shades of a match, in page.css
const STEPS = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1, Home: -Infinity, End: Infinity };
const NAMED = 5; // matches that the note lists

function grouped(items, key) {
  const groups = new Map();
  for (const item of items) groups.set(key(item), [...(groups.get(key(item)) ?? []), item]);
  return groups;
}

const sum = (matches) => matches.reduce((total, match) => total + match.score, 0);

/** The UTF-16 index of each code point: token offsets count code points. */
export function codePointStarts(text) {
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
export function showExplanation(answer, version) {
  const fragment = document.getElementById("explanation-template").content.cloneNode(true);
  const [chips, note, marked] = fragment.children;
  const known = answer.text !== null && answer.document_tokens !== null;
  const top = Math.max(...answer.matches.map((match) => match.score));
  const shade = (node, matches) => {
    const score = Math.max(...matches.map((match) => match.score));
    if (score > 0) node.dataset.level = Math.min(LEVELS, Math.ceil((LEVELS * score) / top));
    return node;
  };

  const ofQuery = grouped(answer.matches, (match) => match.query_token);
  const tokens = answer.query_tokens.map((token, index) => ({ ...token, index, matches: ofQuery.get(index) ?? [] }));
  // One chip for tokens of one text, of which some encoders add dozens.
  const chip = (same) => {
    const matches = same.flatMap((token) => token.matches);
    const node = shade(make("button", "chip"), matches);
    node.type = "button";
    node.dataset.query = same.map((token) => token.index).join(" ");
    node.classList.toggle("added", isAdded(same[0]));
    if (same.length > 1) node.append(make("span", "times", `${same.length} \u00d7`), " ");
    const score = matches.length ? decimal(sum(matches)) : "\u2013";
    node.append(make("bdi", "", same[0].text), " ", make("span", "chip-score", score));
    return node;
  };
  const added = [...grouped(tokens.filter(isAdded), (token) => token.text).values()];
  const own = tokens.filter((token) => !isAdded(token));
  chips.append(...own.map((token) => chip([token])));
  if (added.length && own.length) chips.append(make("span", "break"));
  chips.append(...added.map(chip));

  const nameOf = new Map(); // of the document's tokens
  if (known) {
    const ofDocument = grouped(answer.matches, (match) => match.document_token);
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
    const ofQuery = key === "query_token";
    const own = ofQuery ? answer.query_tokens[indices(node)[0]].text : node.textContent;
    if (!matches.length) return [name(own), " matched nothing"];
    const nameOther = (match) =>
      ofQuery ? nameOf.get(match.document_token) : answer.query_tokens[match.query_token]?.text;
    const others = [...grouped(matches, nameOther)].map(([other, same]) => ({ other, n: same.length, score: sum(same) }));
    const ends = others
      .toSorted((a, b) => b.score - a.score)
      .slice(0, NAMED)
      .flatMap(({ other, n, score }, place) => [
        place ? ", " : " ",
        ...(other === undefined ? [] : [name(other), " "]),
        decimal(score),
        n > 1 ? ` (${n} times)` : "",
      ]);
    if (others.length > NAMED) ends.push(` and ${others.length - NAMED} more`);
    return [name(own), ofQuery ? " matched" : " was matched by", ...ends];
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
export function isAdded(token) {
  return token.end <= token.start;
}

