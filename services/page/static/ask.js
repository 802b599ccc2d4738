// The view in which one asks: it sends the prompt, lets the answers stream, and keeps the marks.

import { EndpointError, fanOut } from "./api.js";
import { $, announce, el, plural } from "./dom.js";
import { RoundView } from "./round.js";
import { SESSION_KEY, Session, mark, markedPairs } from "./session.js";

export class AskView {
  // `refused(error)` is called when the endpoint wants another key.
  constructor(composer, refused) {
    this.composer = composer;
    this.refused = refused;
    this.session = new Session();
    this.views = new Map();
    this.context = null; // The conversation that the next prompt goes on with: { messages, after }.
    this.stopper = null;
    $("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.ask();
    });
    $("stop-asking").addEventListener("click", () => this.stop());
    $("clear").addEventListener("click", () => this.clear());
    addEventListener("pagehide", () => this.session.save());
    addEventListener("storage", ({ key }) => key === SESSION_KEY && this.reload());
  }

  get isAsking() {
    return this.stopper !== null;
  }

  show() {
    this.views = new Map(this.session.rounds.map((round) => [round.id, this.viewOf(round)]));
    const shown = [...this.views.values()].map((view) => view.element);
    $("rounds").replaceChildren(...(shown.length ? shown : [welcome()]));
    this.refresh();
  }

  refresh() {
    const { rounds } = this.session;
    const counts = [plural(rounds.length, "question"), plural(markedPairs(rounds).length, "pair")];
    $("session-summary").textContent = rounds.length ? `${counts[0]}, ${counts[1]} marked` : "";
    $("open-export").hidden = $("clear").hidden = rounds.length === 0;
    $("clear").textContent = "Clear";
    $("send").disabled = this.isAsking || this.composer.sources.length === 0;
    $("stop-asking").hidden = !this.isAsking;
    this.showContext();
  }

  showContext() {
    const { context } = this;
    $("context").hidden = !context;
    if (!context) return;
    const drop = () => this.goOn(null);
    $("context").replaceChildren(
      `Continues after ${context.after} `,
      el("button", { type: "button", class: "quiet", click: drop }, "Start anew"),
    );
  }

  viewOf(round) {
    return new RoundView(round, this.composer.sources, (name, place) => this.act(round, name, place));
  }

  act(round, name, place) {
    if (name === "continue") this.goOn(contextAfter(round, place));
    else if (name === "again") this.edit(round);
    else if (name === "remove") this.remove(round);
    else {
      mark(round, place, name);
      this.views.get(round.id).refresh();
      this.keep();
    }
  }

  async ask() {
    const problem = this.isAsking ? "" : this.composer.problem();
    $("problem").textContent = problem;
    if (this.isAsking || problem || !$("prompt").value.trim()) return;
    const { context, composer } = this;
    const request = composer.request(composer.messages(context?.messages));
    const after = context?.after ?? "";
    const round = this.session.begin(request.messages, request.models, request.n, after);
    const view = this.viewOf(round);
    if (this.views.size === 0) $("rounds").replaceChildren();
    this.views.set(round.id, view);
    $("rounds").append(view.element);
    $("prompt").value = "";
    this.context = null;
    this.stopper = new AbortController();
    this.refresh();
    view.element.scrollIntoView({ block: "start" });
    await this.stream(request, view);
  }

  async stream(request, view) {
    announce(`${plural(view.cards.length, "answer")} on the way`);
    let ending = "The connection ended before this answer was complete.";
    try {
      for await (const { event, data } of fanOut(request, this.stopper.signal)) {
        this.hear(view, event, data);
        if (event === "done") ending = "The endpoint sent no answer.";
      }
    } catch (error) {
      if (error instanceof EndpointError) return this.takeBack(view.round, error);
      if (error.name === "AbortError") ending = null;
    }
    this.stopper = null;
    for (const card of view.cards) finish(card, ending);
    view.refresh();
    announce(ending === null ? "Stopped" : "All answers are there");
    return this.keep();
  }

  // The endpoint did not take the request: the prompt goes back to where it was written.
  takeBack(round, error) {
    this.stopper = null;
    this.edit(round);
    this.remove(round);
    $("problem").textContent = error.message;
    if (error.status === 401) this.refused(error);
  }

  hear(view, event, data) {
    if (event === "error") {
      const failed = view.cards.filter(
        ({ answer }) => answer.model === data.model && answer.index === (data.index ?? answer.index),
      );
      for (const card of failed) fail(card, data.error.message);
      return;
    }
    const card = view.card(data.model, data.index);
    if (!card) return;
    if (event === "delta") {
      card.answer.state = "streaming";
      card.answer.text += data.text;
      card.append(data.text);
    } else if (event === "answer") {
      Object.assign(card.answer, data, { state: "done" });
      view.refresh();
      this.session.save();
      announce(`${card.name} has answered`);
    }
  }

  stop() {
    this.stopper?.abort();
  }

  goOn(context) {
    this.context = context;
    this.showContext();
    $("prompt").focus();
  }

  edit(round) {
    $("prompt").value = round.messages.at(-1).content;
    const { after } = round;
    this.goOn(after ? { messages: round.messages.slice(0, -1), after } : null);
  }

  remove(round) {
    this.stop();
    this.session.remove(round);
    this.keep();
    this.show();
    $("prompt").focus();
  }

  // The second press does it: what was asked cannot be had again.
  clear() {
    if ($("clear").textContent === "Clear") {
      $("clear").textContent = "Clear all?";
      setTimeout(() => { $("clear").textContent = "Clear"; }, 4000);
      return;
    }
    this.stop();
    this.context = null;
    this.session.clear();
    this.keep();
    this.show();
    $("prompt").focus();
  }

  reload() {
    if (this.isAsking) return;
    this.session.load();
    this.show();
  }

  keep() {
    const isKept = this.session.save();
    $("problem").textContent = isKept
      ? ""
      : "The browser has no room left for this session; export it, then clear it.";
    this.refresh();
  }
}

function contextAfter(round, place) {
  const { model, text } = round.answers[place];
  const prompt = round.messages.at(-1).content;
  const begin = prompt.length > 40 ? `${prompt.slice(0, 40)}\u2026` : prompt;
  const messages = [...round.messages, { role: "assistant", content: text }];
  return { messages, after: `${model} on \u201c${begin}\u201d` };
}

function fail(card, message) {
  card.answer.state = "failed";
  card.answer.error = message;
  card.refresh();
}

// What has not come to its end by itself: stopped by the reader (no message), or broken off.
function finish(card, message) {
  if (!["waiting", "streaming"].includes(card.answer.state)) return;
  if (message === null) card.answer.state = "stopped";
  else fail(card, message);
}

function welcome() {
  return el(
    "div",
    { class: "welcome" },
    el("h2", {}, "Ask several models at once"),
    el("p", {}, "Each answer streams beside the others, with its reward, its verdict and the time it took."),
    el(
      "ol",
      {},
      el("li", {}, "Choose sources and write a prompt."),
      el("li", {}, "Mark the better answer, or continue the conversation with one."),
      el("li", {}, "Export what you marked as preference pairs."),
    ),
    el("p", { class: "quiet-text" }, "The session stays in this browser until you clear it."),
  );
}
