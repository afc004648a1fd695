// The panel for the API key, on both pages.

import { element, storedKey, storeKey, wantsKey } from "./endpoint.js";

/** Shows the panel if the endpoint has keys, opened and, if `focused`, with the focus. */
export function askForKey(error, focused) {
  if (!wantsKey(error)) return;
  element("key-panel").hidden = false;
  element("key-panel").open = true;
  if (focused) element("key").focus();
}

/** Connects the panel; calls `use` once a key was entered. */
export function connectKeyPanel(use) {
  const field = element("key");
  field.value = storedKey();
  element("key-panel").hidden = !storedKey();
  field.addEventListener("input", () => field.setCustomValidity(""));
  element("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const key = field.value.trim();
    // The browser silently rejects other characters in a header.
    field.setCustomValidity(/^[\x21-\x7e]*$/.test(key) ? "" : "A key has letters, digits and punctuation, without spaces.");
    if (!field.reportValidity()) return;
    field.value = key;
    storeKey(key);
    use();
  });
  element("forget-key").addEventListener("click", () => {
    field.value = "";
    field.setCustomValidity("");
    storeKey("");
  });
}
