// What was asked in this browser: rounds of one prompt and its answers, and which were marked.

import { pairId, promptId } from "./identity.js";

export const SESSION_KEY = "crucible.session";
const UNFINISHED = ["waiting", "streaming"];

export class Session {
  constructor() {
    this.rounds = [];
    this.load();
  }

  load() {
    try {
      this.rounds = JSON.parse(localStorage.getItem(SESSION_KEY)) ?? [];
    } catch {
      this.rounds = [];
    }
    for (const answer of this.rounds.flatMap((round) => round.answers)) {
      if (UNFINISHED.includes(answer.state)) answer.state = "stopped";
    }
  }

  // False where the browser has no room left.
  save() {
    try {
      localStorage.setItem(SESSION_KEY, JSON.stringify(this.rounds));
      return true;
    } catch {
      return false;
    }
  }

  // `after` names the answer that the prompt comes after, "" where it starts a conversation.
  begin(messages, models, samples, after) {
    const answers = models.flatMap((model) =>
      Array.from({ length: samples }, (_, index) => ({ model, index, text: "", state: "waiting" })),
    );
    const round = { id: randomId(), messages, after, answers, better: null, worse: null };
    this.rounds.push(round);
    return round;
  }

  remove(round) {
    this.rounds = this.rounds.filter((other) => other !== round);
  }

  clear() {
    this.rounds = [];
  }
}

// `side` is "better" or "worse". Marked again, the mark goes; of two answers the other one gets the
// other mark by itself.
export function mark(round, place, side) {
  const other = side === "better" ? "worse" : "better";
  if (round[side] === place) {
    round[side] = null;
    return;
  }
  round[side] = place;
  if (round[other] === place) round[other] = null;
  const rest = round.answers.map((_, at) => at).filter((at) => at !== place);
  if (rest.length === 1 && canBeMarked(round.answers[rest[0]])) round[other] = rest[0];
}

export function canBeMarked(answer) {
  return answer.state === "done" && answer.text.trim() !== "";
}

export function markedPairs(rounds) {
  return rounds.filter(
    ({ answers, better, worse }) =>
      better !== null && worse !== null && answers[better].text !== answers[worse].text,
  );
}

// Rounds with a mark that give no pair: the other mark is missing, or both texts are equal.
export function unpaired(rounds) {
  const pairs = new Set(markedPairs(rounds));
  return rounds.filter((round) => (round.better ?? round.worse) !== null && !pairs.has(round));
}

// A row of the preferences table, with its columns (fusion.records.PREFERENCES).
export function preferenceRow(round, dataset, domain) {
  const chosen = round.answers[round.better];
  const rejected = round.answers[round.worse];
  const rewards = [chosen.reward ?? null, rejected.reward ?? null];
  const prompt = promptId(round.messages);
  return {
    pair_id: pairId(prompt, chosen.text, rejected.text),
    prompt_id: prompt,
    dataset,
    domain,
    source: chosen.model,
    rejected_source: rejected.model,
    prompt: round.messages,
    chosen: [{ role: "assistant", content: chosen.text }],
    rejected: [{ role: "assistant", content: rejected.text }],
    chosen_reward: rewards[0],
    rejected_reward: rewards[1],
    margin: rewards.includes(null) ? null : rewards[0] - rewards[1],
  };
}

// The separators of lines that JSON leaves as they are would end a line for some readers.
export function jsonLines(rows) {
  const escaped = (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
  const line = (row) => JSON.stringify(row).replace(/[\u0085\u2028\u2029]/g, escaped);
  return rows.map((row) => `${line(row)}\n`).join("");
}

function randomId() {
  return Array.from(crypto.getRandomValues(new Uint32Array(2)), (n) => n.toString(36)).join("");
}
