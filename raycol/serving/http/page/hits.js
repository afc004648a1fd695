// One hit, and the hits that are passages of one document.

import { ask, counted, decimal, element, make, problem } from "./endpoint.js";
import { excerpt, sentenceByMatches, sentenceByWords } from "./excerpt.js";
import { showExplanation } from "./explanation.js";

/** The number of a passage in its split document, such as 3 for the id "manual#3"; null for any other hit. */
function passageNumber({ id, metadata }) {
  if (typeof metadata.parent !== "string" || !id.startsWith(`${metadata.parent}#`)) return null;
  const number = id.slice(metadata.parent.length + 1);
  return /^\d+$/.test(number) ? number : null;
}

/** The hits by document, in the order of each document's best hit. */
export function byDocument(hits) {
  const documents = new Map();
  for (const hit of hits) {
    // A hit's own id may equal another's parent.
    const key = passageNumber(hit) === null ? `hit ${hit.id}` : `parent ${hit.metadata.parent}`;
    documents.set(key, [...(documents.get(key) ?? []), hit]);
  }
  return [...documents.values()];
}

let made = 0; // items, for ids

/** A hit of a search in the list; it is explained once it is opened. */
export class HitItem {
  constructor(hit, search) {
    this.hit = hit;
    this.search = search; // { query, version, signal, weights }
    this.item = element("hit-template").content.cloneNode(true).firstElementChild;
    this.button = this.part(".toggle");
    this.explanation = this.part(".explanation");
    this.explanation.id = `explanation-${++made}`;
    this.button.setAttribute("aria-controls", this.explanation.id);
    this.button.addEventListener("click", () => this.toggle());
    this.asked = false;
    this.sentence = hit.text === null ? null : sentenceByWords(hit.text, search.weights);
    this.fill();
  }

  part(selector) {
    return this.item.querySelector(selector);
  }

  fill() {
    const { id, text, metadata, score } = this.hit;
    this.passage = passageNumber(this.hit);
    this.title = typeof metadata.title === "string" && metadata.title.trim() ? metadata.title : null;
    this.part(".score-value").textContent = decimal(score);
    this.part(".id bdi").textContent = id;
    this.part(".text").classList.toggle("missing", text === null);
    for (const [name, value] of Object.entries(metadata)) {
      if ((name === "title" && this.title !== null) || (name === "parent" && this.passage !== null)) continue;
      const pair = make("div", "");
      const shown = typeof value === "object" ? JSON.stringify(value) : String(value);
      pair.append(make("dt", "", name), make("dd", "", shown));
      pair.lastChild.dir = "auto";
      this.part(".metadata").append(pair);
    }
    this.showText();
  }

  /** Places the hit: `rank` of its document, or null below the document's best passage. Returns the list item. */
  place(rank, others = []) {
    const name = this.title ?? (this.passage === null ? this.hit.id : this.hit.metadata.parent);
    this.part(".rank").textContent = rank ?? "";
    this.part(".title").textContent = rank === null ? `Passage ${this.passage}` : name;
    const heading = make(rank === null ? "h3" : "h2", "");
    this.button.parentElement.replaceWith(heading);
    heading.append(this.button);
    const open = this.item.querySelector(":scope > .passages")?.open ?? false;
    this.item.querySelector(":scope > .passages")?.remove();
    if (others.length) {
      const passages = make("details", "passages");
      passages.open = open;
      const list = make("ol", "");
      list.setAttribute("role", "list");
      list.append(...others.map((other) => other.place(null)));
      passages.append(make("summary", "", `${counted(others.length, "more passage")} of this document`), list);
      this.item.append(passages);
    }
    return this.item;
  }

  /** Shows all of the text in an open hit, and the part around the best sentence in a closed one. */
  showText() {
    const { text } = this.hit;
    const open = this.item.classList.contains("open");
    const shown = text === null ? ["The index does not store the text."] : open ? [text] : excerpt(text, this.sentence);
    this.part(".text").replaceChildren(...shown);
    // The explanation shows the text as it was encoded.
    this.part(".text").hidden = open && this.explanation.querySelector(".marked") !== null;
  }

  sentenceOf(explanation) {
    return sentenceByMatches(this.hit.text, explanation, this.search.query, this.search.weights);
  }

  toggle() {
    const open = this.item.classList.toggle("open");
    this.button.setAttribute("aria-expanded", String(open));
    this.explanation.hidden = !open;
    this.showText();
    if (open && !this.asked) this.explain();
  }

  async explain() {
    const { query, version, signal } = this.search;
    this.asked = true;
    this.explanation.replaceChildren(make("p", "quiet", "Matching tokens\u2026"));
    try {
      const answer = await ask("v1/explain", signal, { query, id: this.hit.id });
      this.explanation.replaceChildren(showExplanation(answer, version));
      if (this.hit.text !== null) this.sentence = this.sentenceOf(answer) ?? this.sentence;
    } catch (error) {
      if (signal.aborted) return;
      this.asked = false; // retry when reopened
      this.explanation.replaceChildren(problem(error));
      this.explanation.firstChild.setAttribute("role", "alert");
      this.search.askForKey(error);
    }
    this.showText();
  }
}
