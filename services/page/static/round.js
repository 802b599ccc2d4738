// One round: the prompt as it was asked, and the answers to it side by side.

import { AnswerCard } from "./answer.js";
import { el, visible } from "./dom.js";

export class RoundView {
  // `act(name, place)` is called with "better", "worse", "continue", "again" or "remove".
  constructor(round, sources, act) {
    this.round = round;
    this.cards = round.answers.map(
      (_, place) => new AnswerCard(round, place, sources, (name) => act(name, place)),
    );
    const prompt = round.messages.at(-1).content;
    const system = round.messages.find((message) => message.role === "system");
    const notes = [];
    if (round.after) notes.push(`after ${round.after}`);
    if (system) notes.push(`system: ${system.content}`);
    this.element = el(
      "section",
      { class: "round", "aria-label": `Answers to: ${prompt.slice(0, 80)}` },
      el(
        "div",
        { class: "asked" },
        notes.length ? el("p", { class: "quiet-text" }, visible(notes.join(" \u00b7 "))) : null,
        el("p", { class: "prompt" }, visible(prompt)),
        el(
          "div",
          { class: "round-tools" },
          el("button", { type: "button", class: "quiet", click: () => act("again") }, "Edit"),
          el("button", { type: "button", class: "quiet", click: () => act("remove") }, "Remove"),
        ),
      ),
      el("div", { class: "answers" }, ...this.cards.map((card) => card.element)),
    );
    this.element.addEventListener("keydown", (event) => this.move(event));
  }

  refresh() {
    for (const card of this.cards) card.refresh();
  }

  card(model, index) {
    return this.cards.find(({ answer }) => answer.model === model && answer.index === index);
  }

  focus(place) {
    const card = this.cards[place];
    card?.element.focus();
    card?.element.scrollIntoView({ block: "nearest" });
  }

  // The place of the card that has the focus, or -1.
  focused() {
    return this.cards.findIndex(({ element }) => element.contains(document.activeElement));
  }

  move(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || this.focused() < 0) return;
    event.preventDefault();
    this.focus((this.focused() + step + this.cards.length) % this.cards.length);
  }
}
