// One answer as a card: its text as it comes, what it was judged and what it took.

import { el, seconds, signed, sourceColour, visible } from "./dom.js";
import { canBeMarked } from "./session.js";

const STATES = { waiting: "waiting", streaming: "answering", stopped: "stopped", failed: "failed" };

export class AnswerCard {
  // `act(name)` is called with "better", "worse" or "continue".
  constructor(round, place, sources, act) {
    this.round = round;
    this.place = place;
    this.state = el("span", { class: "state" });
    this.text = document.createTextNode("");
    this.body = el("div", { class: "text" }, this.text);
    this.error = el("p", { class: "error" });
    this.facts = el("dl", { class: "facts" });
    this.buttons = {
      better: el("button", { type: "button", click: () => act("better") }, "Better"),
      worse: el("button", { type: "button", click: () => act("worse") }, "Worse"),
      continue: el("button", { type: "button", click: () => act("continue") }, "Continue"),
    };
    const { model, index } = this.answer;
    const isOneOfMany = round.answers.some((other) => other.model === model && other.index > 0);
    this.name = isOneOfMany ? `${model} ${index + 1}` : model;
    const dot = el("span", { class: `dot ${sourceColour(model, sources)}` });
    this.element = el(
      "article",
      { class: "answer", tabindex: 0, "aria-label": `Answer of ${this.name}` },
      el("header", {}, dot, el("h3", {}, this.name), this.state),
      this.body,
      this.error,
      this.facts,
      el("footer", {}, ...Object.values(this.buttons)),
    );
    this.refresh();
  }

  get answer() {
    return this.round.answers[this.place];
  }

  append(text) {
    this.text.appendData(visible(text));
    if (this.element.dataset.state !== this.answer.state) this.refresh();
  }

  refresh() {
    const { answer } = this;
    this.element.dataset.state = answer.state;
    this.element.dataset.mark =
      ["better", "worse"].find((side) => this.round[side] === this.place) ?? "";
    const isCut = answer.finish_reason === "length";
    this.state.textContent = isCut ? "cut off at its limit" : (STATES[answer.state] ?? "");
    const shown = visible(answer.text);
    if (this.text.data !== shown) this.text.data = shown;
    const isUnjudged = answer.state === "done" && answer.reason && !answer.verdict;
    this.error.textContent = visible(answer.error ?? (isUnjudged ? answer.reason : ""));
    this.body.classList.toggle("empty", answer.state === "done" && answer.text.trim() === "");
    this.facts.replaceChildren(...factsOf(answer, this.isBest()));
    this.refreshButtons();
  }

  refreshButtons() {
    const isMarkable = canBeMarked(this.answer);
    for (const [name, button] of Object.entries(this.buttons)) {
      button.hidden = !isMarkable || (name !== "continue" && this.round.answers.length < 2);
      if (name !== "continue") button.setAttribute("aria-pressed", this.round[name] === this.place);
    }
  }

  isBest() {
    const rewards = this.round.answers.map((answer) => answer.reward).filter(Number.isFinite);
    return rewards.length > 1 && this.answer.reward === Math.max(...rewards);
  }
}

function factsOf(answer, isBest) {
  const facts = [];
  if (Number.isFinite(answer.reward)) {
    facts.push(fact("reward", signed(answer.reward), isBest ? "highest" : ""));
  }
  if (answer.verdict) {
    const reason = (answer.reason ?? "").replaceAll("_", " ");
    facts.push(fact("verdict", answer.verdict, answer.verdict, reason));
  }
  if (answer.usage) facts.push(fact("tokens", answer.usage.completion_tokens.toLocaleString("en")));
  if (Number.isFinite(answer.first_token_ms)) facts.push(fact("first", seconds(answer.first_token_ms)));
  if (Number.isFinite(answer.latency_ms)) facts.push(fact("in all", seconds(answer.latency_ms)));
  return facts;
}

function fact(name, value, kind = "", reason = "") {
  const shown = el("dd", { class: kind, title: reason || null }, value);
  if (kind === "highest") shown.append(el("span", { class: "unseen" }, ", the highest"));
  return el("div", {}, el("dt", {}, name), shown);
}
