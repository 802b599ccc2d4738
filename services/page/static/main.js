// The page: which view is shown, the key, the theme, the export, the keyboard.

import { describeEndpoint, key } from "./api.js";
import { AskView } from "./ask.js";
import { Composer } from "./composer.js";
import { $, el, plural } from "./dom.js";
import { PairsView } from "./pairs.js";
import { jsonLines, markedPairs, preferenceRow, unpaired } from "./session.js";
import { listen } from "./shortcuts.js";

const composer = new Composer();
const ask = new AskView(composer, askForKey);
const pairs = new PairsView(askForKey);

function currentView() {
  return location.hash.startsWith("#pairs") ? "pairs" : "ask";
}

async function route() {
  const view = currentView();
  for (const name of ["ask", "pairs"]) {
    $(name).hidden = name !== view;
    if (name === view) $(`to-${name}`).setAttribute("aria-current", "page");
    else $(`to-${name}`).removeAttribute("aria-current");
  }
  $("skip").textContent = view === "pairs" ? "Skip to the search" : "Skip to the prompt";
  if (view === "pairs") {
    $("to-pairs").href = location.hash;
    await pairs.open(new URLSearchParams(location.hash.split("?")[1] ?? ""));
  }
}

function focusField() {
  $(currentView() === "ask" ? "prompt" : "search").focus();
}

async function connect() {
  try {
    const endpoint = await describeEndpoint();
    $("run").textContent = endpoint.run;
    document.title = `${endpoint.run} \u00b7 Crucible`;
    $("change-key").hidden = !endpoint.keys;
    composer.offer(endpoint);
  } catch (error) {
    if (error.status === 401) {
      askForKey(error);
      showTrouble("This endpoint asks for a key.", "Enter a key", () => askForKey());
    } else showTrouble(error.message, "Try again", connect);
  }
  ask.show();
}

function showTrouble(message, label, mend) {
  const button = el("button", { type: "button", click: mend }, label);
  $("sources").removeAttribute("aria-busy");
  $("sources").replaceChildren(el("p", { class: "error" }, message), button);
}

function askForKey(error) {
  $("key-problem").textContent = error && key.get() ? error.message : "";
  $("key-form").reset();
  if (!$("key-dialog").open) $("key-dialog").showModal();
}

function useKey(event) {
  event.preventDefault();
  key.set($("key").value.trim());
  $("key-dialog").close();
  connect();
  route();
}

function openExport() {
  const { rounds } = ask.session;
  const [complete, incomplete] = [markedPairs(rounds).length, unpaired(rounds).length];
  const sentences = [complete ? `${plural(complete, "pair")} marked.` : "No pair is marked yet: mark a better and a worse answer to one question."];
  if (incomplete) {
    sentences.push(`${plural(incomplete, "question")} left out: one mark is missing, or both texts are the same.`);
  }
  $("export-summary").textContent = sentences.join(" ");
  $("download").disabled = complete === 0;
  $("export-dialog").showModal();
}

function download(event) {
  event.preventDefault();
  const [dataset, domain] = [$("export-dataset").value.trim(), $("export-domain").value.trim()];
  const rows = markedPairs(ask.session.rounds).map((round) => preferenceRow(round, dataset, domain));
  const address = URL.createObjectURL(new Blob([jsonLines(rows)], { type: "application/jsonl" }));
  el("a", { href: address, download: "preferences.jsonl" }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
  $("export-dialog").close();
}

const THEMES = ["auto", "light", "dark"];

function showTheme() {
  const theme = document.documentElement.dataset.theme ?? "auto";
  $("theme").textContent = theme[0].toUpperCase() + theme.slice(1);
  $("theme").setAttribute("aria-label", `Theme: ${theme === "auto" ? "as the system" : theme}`);
}

function nextTheme() {
  const { dataset } = document.documentElement;
  const theme = THEMES[(THEMES.indexOf(dataset.theme ?? "auto") + 1) % THEMES.length];
  if (theme === "auto") {
    delete dataset.theme;
    localStorage.removeItem("crucible.theme");
  } else {
    dataset.theme = theme;
    localStorage.setItem("crucible.theme", theme);
  }
  showTheme();
}

const newest = () => ask.views.get(ask.session.rounds.at(-1)?.id);
const onCard = (name) => () => {
  const view = [...ask.views.values()].find((shown) => shown.focused() >= 0);
  const button = view?.cards[view.focused()].buttons[name];
  if (!button || button.hidden) return false;
  button.click();
  return true;
};
const digits = ["1", "2", "3", "4", "5", "6", "7", "8", "9"];

listen([
  { shown: "/", key: "/", text: "Write a prompt, or search the pairs", act: focusField },
  { shown: "Ctrl Enter", key: "Enter", withControl: true, text: "Ask", view: "ask", act: () => ask.ask() },
  { shown: "Esc", key: "Escape", text: "Stop the answers", view: "ask", act: () => ask.isAsking && ask.stop() },
  { shown: "1 \u2026 9", key: digits, text: "Go to an answer to the last question", view: "ask", act: (event) => newest()?.focus(Number(event.key) - 1) },
  { shown: "\u2190 \u2192", text: "Go to the answer beside it" },
  { shown: "b", key: "b", text: "Mark this answer as the better one", view: "ask", act: onCard("better") },
  { shown: "w", key: "w", text: "Mark this answer as the worse one", view: "ask", act: onCard("worse") },
  { shown: "c", key: "c", text: "Continue with this answer", view: "ask", act: onCard("continue") },
  { shown: "e", key: "e", text: "Export the marked pairs", view: "ask", act: openExport },
  { shown: "j", key: "j", text: "Next pair", view: "pairs", act: () => pairs.step(1) },
  { shown: "k", key: "k", text: "Previous pair", view: "pairs", act: () => pairs.step(-1) },
  { shown: "d", key: "d", text: "Show the words that differ", view: "pairs", act: () => pairs.toggleDifferences() },
  { shown: "g", key: "g", text: "Go to the other view", act: () => $(currentView() === "ask" ? "to-pairs" : "to-ask").click() },
  { shown: "t", key: "t", text: "Change the theme", act: nextTheme },
  { shown: "?", key: "?", text: "This list", act: () => $("shortcuts").showModal() },
], currentView);

const isNarrow = matchMedia("(max-width: 860px)");
const foldSettings = () => { $("settings").open = !isNarrow.matches; };
isNarrow.addEventListener("change", foldSettings);
foldSettings();

addEventListener("hashchange", route);
$("skip").addEventListener("click", focusField);
$("theme").addEventListener("click", nextTheme);
$("change-key").addEventListener("click", () => askForKey());
$("key-form").addEventListener("submit", useKey);
$("open-export").addEventListener("click", openExport);
$("export-form").addEventListener("submit", download);
$("open-shortcuts").addEventListener("click", () => $("shortcuts").showModal());
for (const button of document.querySelectorAll("[data-close]")) {
  button.addEventListener("click", () => button.closest("dialog").close());
}
showTheme();
connect();
route();
