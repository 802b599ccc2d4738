// The form: which sources, which sampling, which prompt; and the request that they make.

import { $, el, sourceColour } from "./dom.js";

const KEPT = "crucible.settings";
const FIELDS = ["temperature", "top-p", "max-tokens", "samples", "seed", "stop", "verifier", "gold", "system"];

export class Composer {
  constructor() {
    this.sources = [];
    this.describe();
    $("settings").addEventListener("input", () => this.changed());
  }

  // `endpoint` is what GET /v1/endpoint says.
  offer(endpoint) {
    this.sources = endpoint.sources;
    const kept = JSON.parse(localStorage.getItem(KEPT) ?? "{}");
    for (const name of FIELDS) if (kept[name] !== undefined) $(name).value = kept[name];
    const off = new Set(kept.off ?? []);
    const boxes = endpoint.sources.map((name) => this.choice(name, !off.has(name)));
    $("sources").replaceChildren(...(boxes.length ? boxes : [noSource()]));
    $("sources").removeAttribute("aria-busy");
    $("score-choice").hidden = !endpoint.reward;
    $("score").checked = endpoint.reward && (kept.score ?? true);
    $("max-tokens").max = endpoint.limits.max_tokens;
    $("samples").max = endpoint.limits.n;
    this.changed();
  }

  choice(name, isOn) {
    const box = el("input", { type: "checkbox", name: "source", value: name });
    box.checked = isOn;
    const dot = el("span", { class: `dot ${sourceColour(name, this.sources)}` });
    return el("label", { class: "check" }, box, dot, name);
  }

  get chosenSources() {
    return [...document.querySelectorAll("#sources input:checked")].map((box) => box.value);
  }

  changed() {
    $("gold").disabled = $("verifier").value === "";
    $("gold").required = !$("gold").disabled;
    this.describe();
    if (this.sources.length === 0) return;
    const kept = Object.fromEntries(FIELDS.map((name) => [name, $(name).value]));
    kept.off = this.sources.filter((name) => !this.chosenSources.includes(name));
    kept.score = $("score").checked;
    localStorage.setItem(KEPT, JSON.stringify(kept));
  }

  // What a phone shows of the settings while they are folded.
  describe() {
    const set = [["temperature", "temperature"], ["max-tokens", "tokens"], ["samples", "each"]]
      .filter(([name]) => $(name).value && !(name === "samples" && $(name).value === "1"))
      .map(([name, word]) => `${word} ${$(name).value}`);
    $("settings-summary").textContent = [this.chosenSources.join(", "), ...set].join(" \u00b7 ");
  }

  // What keeps the form from being sent, in one sentence, or "".
  problem() {
    if (this.chosenSources.length === 0) return "Choose at least one source.";
    const wrong = document.querySelector("#settings :invalid:not(fieldset)");
    if (!wrong) return "";
    $("settings").open = true;
    wrong.focus();
    return `${wrong.labels[0].firstChild.textContent.trim()}: ${wrong.validationMessage}`;
  }

  // The messages of a new prompt after those of the conversation that it goes on from, if any.
  messages(conversation) {
    const system = $("system").value.trim();
    const before = system ? [{ role: "system", content: system }] : [];
    return [...(conversation ?? before), { role: "user", content: $("prompt").value }];
  }

  request(messages) {
    const verifier = $("verifier").value || null;
    return {
      messages,
      models: this.chosenSources,
      n: Number($("samples").value),
      ...numbers({ temperature: "temperature", top_p: "top-p", max_tokens: "max-tokens", seed: "seed" }),
      ...($("stop").value ? { stop: $("stop").value } : {}),
      score: $("score").checked,
      ...(verifier ? { verifier, gold: $("gold").value } : {}),
    };
  }
}

// What is left blank is left to the recipe.
function numbers(fields) {
  const given = Object.entries(fields).filter(([, id]) => $(id).value !== "");
  return Object.fromEntries(given.map(([name, id]) => [name, Number($(id).value)]));
}

function noSource() {
  return el("p", { class: "quiet-text" }, "No source is up. Start some with crucible serve.");
}
