// The description of the API, from the endpoint's OpenAPI document: paths, fields, and a form to try each one.

import { ask, element, make, problem, Refusal, storedKey } from "./endpoint.js";
import { askForKey, connectKeyPanel } from "./key.js";

let schemas; // of the document's components

const resolve = (schema) => (schema?.$ref ? schemas[schema.$ref.split("/").at(-1)] : schema);
const json = (value) => JSON.stringify(value, null, 2);

/** A schema in a few words: "list of string", "integer 1 to 1000 or null". */
function describeType(schema) {
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.anyOf) return [...new Set(schema.anyOf.map(describeType))].join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if ("const" in schema) return JSON.stringify(schema.const);
  const { type, items, minimum, maximum, exclusiveMaximum, maxLength, maxItems } = schema;
  if (type === "array") return `list ${maxItems ? `(up to ${maxItems}) ` : ""}of ${describeType(items ?? {})}`;
  const limits = [
    minimum === undefined ? "" : ` from ${minimum}`,
    maximum === undefined ? "" : ` to ${maximum}`,
    exclusiveMaximum === undefined ? "" : ` below ${exclusiveMaximum}`,
    maxLength === undefined ? "" : ` (up to ${maxLength} characters)`,
  ];
  return (type ?? "any") + limits.join("");
}

/** The names of the schemas that a field consists of. */
function referenced({ $ref, items, anyOf = [] }) {
  return $ref ? [$ref.split("/").at(-1)] : [...anyOf, ...(items ? [items] : [])].flatMap(referenced);
}

/** A description, with the parts between backticks as code. */
function prose(className, text = "") {
  const node = make("span", className);
  node.append(...text.split("`").map((part, place) => (place % 2 ? make("code", "", part) : part)));
  return node;
}

function showFields(heading, schema) {
  const { properties = {}, required = [], description } = resolve(schema) ?? {};
  if (!Object.keys(properties).length) return [];
  const list = make("dl", "fields");
  for (const [name, field] of Object.entries(properties)) {
    const term = make("dt", "");
    term.append(make("code", "", name), ` ${describeType(field)}`);
    if (required.includes(name)) term.append(" (required)");
    else if (field.default !== undefined && field.default !== null) term.append(`, by default ${JSON.stringify(field.default)}`);
    const meaning = make("dd", "");
    meaning.append(prose("", field.description));
    list.append(term, meaning);
  }
  const parts = Object.values(properties).flatMap(referenced);
  return [
    make("h3", "", heading),
    ...(description ? [prose("quiet", description)] : []),
    list,
    ...[...new Set(parts)].flatMap((name) => showFields(name, schemas[name])),
  ];
}

/** A command that sends the request; --json makes it a POST. */
function curl(path, body) {
  const address = new URL(`.${path}`, location.href).href;
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const key = storedKey() ? " -H 'Authorization: Bearer KEY'" : "";
  return `curl${key} ${quoted(address)}${body ? ` --json ${quoted(body)}` : ""}`;
}

/** The value of a body. Throws a Refusal if it is not JSON. */
function parse(body) {
  try {
    return JSON.parse(body);
  } catch (error) {
    throw new Refusal(0, { title: "The body is not JSON", detail: `${error.message}.` });
  }
}

/** A form that sends the request, except to paths that change the endpoint. */
function showForm(path, example) {
  const command = make("pre", "", curl(path, example && JSON.stringify(example)));
  if (path.startsWith("/v1/admin/") || path.includes("{") || path === "/metrics") return [make("h3", "", "Example"), command];
  const send = make("form", "");
  const body = make("textarea", "", example && json(example));
  if (example) {
    const label = make("label", "", "Body");
    body.rows = json(example).split("\n").length;
    body.spellcheck = false;
    label.append(body);
    send.append(label);
    body.addEventListener("input", () => (command.textContent = curl(path, body.value)));
  }
  const button = make("button", "plain", "Send");
  button.type = "submit";
  const answer = make("div", "");
  answer.setAttribute("role", "status");
  send.append(button, answer);
  send.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      const parsed = example && parse(body.value);
      answer.replaceChildren(make("pre", "", json(await ask(`.${path}`, undefined, parsed))));
    } catch (error) {
      answer.replaceChildren(problem(error));
      askForKey(error, true);
    }
  });
  return [make("h3", "", "Example"), command, send];
}

function showOperation(method, path, operation) {
  const node = make("details", "operation");
  const summary = make("summary", "");
  summary.append(make("code", "", `${method} ${path}`), " ", prose("quiet", operation.description));
  const request = operation.requestBody?.content?.["application/json"]?.schema;
  const answer = operation.responses?.["200"]?.content?.["application/json"]?.schema;
  node.append(
    summary,
    ...showForm(path, resolve(request)?.examples?.[0]),
    ...showFields("Request", request),
    ...showFields("Response", answer),
  );
  return node;
}

async function load() {
  element("problem").replaceChildren();
  element("operations").replaceChildren();
  try {
    const document_ = await ask("openapi.json");
    schemas = document_.components.schemas;
    element("api-summary").textContent = `version ${document_.info.version}`;
    for (const [path, methods] of Object.entries(document_.paths)) {
      for (const [method, operation] of Object.entries(methods)) {
        element("operations").append(showOperation(method.toUpperCase(), path, operation));
      }
    }
  } catch (error) {
    element("problem").replaceChildren(problem(error));
    askForKey(error, true);
  }
}

connectKeyPanel(load);
load();
