// The sentence of a text that a closed hit highlights, and the part of the text around it.

import { codePointStarts, isAdded } from "./explanation.js";
import { make } from "./endpoint.js";

const SEARCHED = 10_000; // characters of a text
const LONG = 160; // characters of a sentence; a longer one may be several in lower case
const SHOWN_BEFORE = 160; // characters before the sentence; the rest is cut
const segmenters = Object.fromEntries(
  ["sentence", "word"].map((granularity) => [granularity, new Intl.Segmenter("en", { granularity })]),
);

const fold = (word) => word.normalize("NFKC").toLowerCase();
const wordSegments = (text) => [...segmenters.word.segment(text)].filter((segment) => segment.isWordLike);
const words = (text) => [...new Set(wordSegments(text).map(({ segment }) => fold(segment)))];

/** Whether two words are forms of one: parse, parsing. */
function alike(a, b) {
  if (a === b) return true;
  const shared = Math.max(4, Math.min(a.length, b.length) - 1);
  return a.length >= shared && b.length >= shared && a.slice(0, shared) === b.slice(0, shared);
}

/** The sentences of a text as { start, end }; line breaks inside a paragraph end none. */
export function sentencesOf(text) {
  const found = [];
  // Not half of a surrogate pair: the sentence that it ends would show it.
  const searched = text.slice(0, SEARCHED).replace(/[\ud800-\udbff]$/, "");
  const flat = searched.replace(/(?<![\r\n])\r?\n(?!\r?\n)/g, (breaks) => " ".repeat(breaks.length));
  for (const { segment, index } of segmenters.sentence.segment(flat)) {
    const parts = segment.length <= LONG ? [segment] : segment.match(/.{40,300}?[.!?;]\s+|.{1,300}(?:\s|$)|.{1,300}/gsu);
    let start = index;
    for (const part of parts) {
      if (part.trim()) found.push({ start, end: start + part.trimEnd().length });
      start += part.length;
    }
  }
  return found;
}

/** The query's words as { start, end, word, weight }: a word weighs more, the fewer sentences of the texts have it. */
export function wordWeights(query, texts) {
  const sets = texts.flatMap((text) => sentencesOf(text).map(({ start, end }) => words(text.slice(start, end))));
  return wordSegments(query).map(({ segment, index }) => {
    const word = fold(segment);
    const n = sets.filter((set) => set.some((other) => alike(word, other))).length;
    return { start: index, end: index + segment.length, word, weight: Math.log((1.5 + sets.length) / (1 + n)) };
  });
}

/** The sentence with the most of the query's words, by weight; null if none has any. */
export function sentenceByWords(text, weights) {
  const score = (sentence) => {
    const own = words(text.slice(sentence.start, sentence.end));
    return weights.reduce((sum, { word, weight }) => sum + (own.some((other) => alike(word, other)) ? weight : 0), 0);
  };
  return best(sentencesOf(text), score);
}

/** The sentence whose tokens matched the query best, by weight, from an explanation; null if that is not known. */
export function sentenceByMatches(text, explanation, query, weights) {
  const place = explanation.text?.lastIndexOf(text.trim()) ?? -1;
  if (place < 0 || explanation.document_tokens === null) return null;
  const shift = text.indexOf(text.trim()) - place; // the title comes first
  const ofText = codePointStarts(explanation.text);
  const ofQuery = codePointStarts(query);
  const hits = explanation.matches.flatMap(({ query_token, document_token, score }) => {
    const [own, other] = [explanation.query_tokens[query_token], explanation.document_tokens[document_token]];
    if (isAdded(own) || isAdded(other)) return [];
    const at = ofQuery[own.start];
    const weight = weights.find(({ start, end }) => start <= at && at < end)?.weight ?? 0;
    return { at: ofText[other.start] + shift, score: score * weight };
  });
  return best(sentencesOf(text), ({ start, end }) =>
    hits.reduce((sum, { at, score }) => sum + (start <= at && at < end ? score : 0), 0),
  );
}

function best(sentences, scoreOf) {
  let found = null;
  let top = 0;
  for (const sentence of sentences) {
    const score = scoreOf(sentence);
    if (score > top) [found, top] = [sentence, score];
  }
  return found;
}

/** The text as nodes, from shortly before the sentence, which is highlighted. */
export function excerpt(text, sentence) {
  if (sentence === null) return [text];
  const before = sentencesOf(text).filter(({ end }) => end <= sentence.start);
  const near = before.find(({ start }) => sentence.start - start <= SHOWN_BEFORE);
  const from = sentence.start <= SHOWN_BEFORE ? 0 : (near?.start ?? sentence.start);
  return [
    (from ? "\u2026 " : "") + text.slice(from, sentence.start),
    make("b", "best", text.slice(sentence.start, sentence.end)),
    text.slice(sentence.end),
  ];
}
