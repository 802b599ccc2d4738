// One pair of the run: its prompt, and both answers side by side.

import { differences } from "./difference.js";
import { el, signed, visible } from "./dom.js";

// `row` is a row of the preferences table; `showsDifferences` marks the words that differ.
export function pairElements(row, showsDifferences) {
  const [chosen, rejected] = [row.chosen, row.rejected].map(replyText);
  const compared = showsDifferences ? differences(chosen, rejected) : null;
  const isTooLong = showsDifferences && compared === null;
  return [
    el("div", { class: "turns" }, ...row.prompt.flatMap((turn) => turnElements(turn, row.prompt.length))),
    isTooLong ? el("p", { class: "quiet-text" }, "These answers are too long to compare word by word.") : null,
    el(
      "div",
      { class: "sides" },
      side("chosen", chosen, row.chosen_reward, compared?.[0]),
      side("rejected", rejected, row.rejected_reward, compared?.[1]),
    ),
  ].filter(Boolean);
}

function turnElements({ role, content }, numTurns) {
  const text = el("p", { class: `turn ${role}` }, visible(content));
  return numTurns > 1 ? [el("p", { class: "role" }, role), text] : [text];
}

function replyText(messages) {
  return visible(messages.map((message) => message.content).join("\n\n"));
}

function side(name, text, reward, runs) {
  const words = runs?.map((run) => (run.isShared ? run.text : el("mark", {}, run.text)));
  return el(
    "article",
    { class: `side ${name}`, tabindex: 0, "aria-label": name },
    el(
      "header",
      {},
      el("h3", {}, name),
      reward === null ? null : el("span", { class: "state" }, `reward ${signed(reward)}`),
    ),
    el("div", { class: text.trim() ? "text" : "text empty" }, ...(words ?? [text])),
  );
}
