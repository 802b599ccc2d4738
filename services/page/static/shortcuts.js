// The keyboard: what each key does, where, and the list that says so.

import { $, el } from "./dom.js";

const OFF = "crucible.single-keys-off";

// `keys` is a list of { shown, key, text, act, view }: `act` returns false where it does not apply.
export function listen(keys, currentView) {
  $("single-keys").checked = localStorage.getItem(OFF) === null;
  $("single-keys").addEventListener("change", () => {
    if ($("single-keys").checked) localStorage.removeItem(OFF);
    else localStorage.setItem(OFF, "1");
  });
  const rows = keys.filter(({ shown }) => shown).flatMap(({ shown, text }) => [
    el("dt", {}, ...shown.split(" ").map((key) => el("kbd", {}, key))),
    el("dd", {}, text),
  ]);
  $("shortcut-list").replaceChildren(...rows);
  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]")) return;
    const found = keys.find(
      (entry) => matches(entry, event) && (!entry.view || entry.view === currentView()),
    );
    if (found && found.act(event) !== false) event.preventDefault();
  });
}

function matches({ key, withControl }, event) {
  if (event.altKey) return false;
  const isControl = event.ctrlKey || event.metaKey;
  if (withControl || isControl) return Boolean(withControl) && isControl && event.key === key;
  if (key === "Escape") return event.key === key;
  const isTyped = event.target.closest?.("input, select, textarea");
  if (isTyped || !$("single-keys").checked) return false;
  return Array.isArray(key) ? key.includes(event.key) : event.key === key;
}
