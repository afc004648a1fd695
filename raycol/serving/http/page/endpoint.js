// Requests to the endpoint, the API key, error responses, and the DOM helpers of both pages.
// External content is inserted as text only, so that no document can run or load anything.

const KEY = "raycol-key"; // in sessionStorage
let unstored = ""; // the key, if storage is disabled

/** An error response. */
export class Refusal extends Error {
  constructor(status, { title, detail, request_id }) {
    super(title);
    Object.assign(this, { status, title, detail, request: request_id });
  }
}

export function storedKey() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return unstored;
  }
}

export function storeKey(key) {
  unstored = key;
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
export async function ask(path, signal, body) {
  const headers = { Accept: "application/json, application/problem+json" };
  const key = storedKey();
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response, content;
  try {
    const method = body === undefined ? "GET" : "POST";
    response = await fetch(path, { method, headers, signal, body: body === undefined ? body : JSON.stringify(body) });
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

/** Whether the endpoint has keys, and got none or an unknown one. */
export const wantsKey = (error) => error.status === 401;

/** An element that describes an error. */
export function problem(error) {
  const unexpected = { title: "Unexpected response", detail: error.message };
  const refusal = error instanceof Refusal ? error : new Refusal(0, unexpected);
  const node = make("div", "problem");
  node.append(make("p", ""));
  node.firstChild.append(make("strong", "", refusal.title), " ", make("span", "", refusal.detail));
  if (refusal.request) node.append(make("p", "quiet", `Request ${refusal.request}`));
  return node;
}

export const element = (id) => document.getElementById(id);

export function make(tag, className, text = "") {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.textContent = text;
  return node;
}

export const decimal = (number) => number.toFixed(3);
export const milliseconds = (ms) => `${ms < 10 ? ms.toFixed(1) : Math.round(ms).toLocaleString("en")} ms`;
export const counted = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

