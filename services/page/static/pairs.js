// The view in which one looks at the pairs of a finished run. Its address holds the whole query, so
// that a link opens the same pairs.

import { findPairs } from "./api.js";
import { $, announce, el, plural, signed, visible } from "./dom.js";
import { pairElements } from "./pair.js";

const PAGE = 50;
const FILTERS = { search: "search", domain: "domain", dataset: "dataset", source: "source",
  min_margin: "min-margin", max_margin: "max-margin" };

export class PairsView {
  // `refused(error)` is called when the endpoint wants another key.
  constructor(refused) {
    this.refused = refused;
    this.found = { total: 0, rows: [] };
    this.offset = 0;
    this.place = 0;
    this.showsDifferences = false;
    this.asked = null;
    const search = () => this.search();
    let typed;
    $("filters").addEventListener("input", () => {
      clearTimeout(typed);
      typed = setTimeout(search, 200);
    });
    $("filters").addEventListener("submit", (event) => event.preventDefault());
    $("filters").addEventListener("reset", () => setTimeout(search));
    $("previous-page").addEventListener("click", () => this.turnPage(-1));
    $("next-page").addEventListener("click", () => this.turnPage(1));
  }

  // Show what the address says: "#pairs?domain=math&pair=12", the pair counted from 1.
  async open(parameters) {
    for (const [name, id] of Object.entries(FILTERS)) choose($(id), parameters.get(name) ?? "");
    const place = Math.max(0, Math.trunc(Number(parameters.get("pair"))) - 1) || 0;
    await this.load(place - (place % PAGE), place % PAGE);
    $("browser").classList.toggle("reading", parameters.has("pair"));
  }

  async search() {
    $("browser").classList.remove("reading");
    await this.load(0);
    this.writeAddress(this.query());
  }

  query() {
    const given = Object.entries(FILTERS).map(([name, id]) => [name, $(id).value.trim()]);
    return Object.fromEntries(given.filter(([, value]) => value !== ""));
  }

  async load(offset, place = 0) {
    this.asked?.abort();
    this.asked = new AbortController();
    $("browser").setAttribute("aria-busy", "true");
    try {
      this.found = await findPairs({ ...this.query(), offset, limit: PAGE }, this.asked.signal);
    } catch (error) {
      if (error.name !== "AbortError") this.fail(error);
      return;
    }
    $("browser").removeAttribute("aria-busy");
    this.offset = offset;
    this.place = Math.min(place, Math.max(0, this.found.rows.length - 1));
    this.offerFacets();
    this.showList();
    this.showPair();
    announce(plural(this.found.total, "pair"));
  }

  fail(error) {
    $("browser").removeAttribute("aria-busy");
    this.found = { total: 0, rows: [] };
    this.showList();
    const retry = el("button", { type: "button", click: () => this.load(0) }, "Try again");
    const isMissing = error.status === 404;
    $("count").textContent = "";
    $("pair").replaceChildren(nothing(isMissing ? "No pairs yet" : "The pairs cannot be shown", error.message, retry));
    if (error.status === 401) this.refused(error);
  }

  offerFacets() {
    const { domains, datasets, sources } = this.found.facets;
    for (const [id, values] of Object.entries({ domain: domains, dataset: datasets, source: sources })) {
      const chosen = $(id).value;
      const options = values.map((value) => el("option", { value }, value));
      $(id).replaceChildren(el("option", { value: "" }, "all"), ...options);
      choose($(id), chosen);
    }
  }

  showList() {
    const { total, rows } = this.found;
    const last = this.offset + rows.length;
    $("count").textContent = total
      ? `${(this.offset + 1).toLocaleString("en")}\u2013${last.toLocaleString("en")} of ${plural(total, "pair")}`
      : "No pair";
    $("list").replaceChildren(...rows.map((row, place) => this.item(row, place)));
    $("previous-page").disabled = this.offset === 0;
    $("next-page").disabled = last >= total;
    $("previous-page").parentElement.hidden = total <= PAGE;
  }

  item(row, place) {
    const prompt = visible(row.prompt.at(-1).content);
    const margin = row.margin === null ? null : el("span", { class: "margin" }, signed(row.margin, 2));
    return el(
      "li",
      {},
      el(
        "button",
        { type: "button", click: () => this.read(place) },
        el("span", { class: "snippet" }, prompt),
        el("small", {}, `${row.domain} \u00b7 ${row.source}`, margin),
      ),
    );
  }

  read(place) {
    this.place = place;
    this.showPair();
    $("browser").classList.add("reading");
    this.writeAddress({ ...this.query(), pair: this.offset + place + 1 });
    $("pair").focus({ preventScroll: true });
    $("pair").scrollTop = 0;
  }

  writeAddress(parameters) {
    const address = `#pairs?${new URLSearchParams(parameters)}`;
    history.replaceState(null, "", address);
    $("to-pairs").href = address;
  }

  showPair() {
    const row = this.found.rows[this.place];
    [...$("list").children].forEach((item, place) => {
      item.firstChild.setAttribute("aria-current", place === this.place);
      if (place === this.place) item.scrollIntoView({ block: "nearest" });
    });
    if (!row) {
      const reset = el("button", { type: "button", click: () => $("filters").reset() }, "Reset");
      const advice = "Nothing fits all of these filters.";
      $("pair").replaceChildren(nothing("No pair found", advice, reset));
      return;
    }
    $("pair").replaceChildren(this.pairHeader(row), ...pairElements(row, this.showsDifferences));
  }

  pairHeader(row) {
    const margin = row.margin === null ? "no margin" : `margin ${signed(row.margin)}`;
    const sources = [...new Set([row.source, row.rejected_source])].join(" over ");
    const difference = el(
      "button",
      { type: "button", "aria-pressed": this.showsDifferences, click: () => this.toggleDifferences() },
      "Differences",
    );
    return el(
      "header",
      { class: "pair-header" },
      el("button", { type: "button", class: "back", click: () => this.backToList() }, "Back to the list"),
      el("p", {}, [row.domain, row.dataset, sources, margin].join(" \u00b7 ")),
      difference,
      el("button", { type: "button", "aria-label": "Previous pair", click: () => this.step(-1) }, "\u2190"),
      el("button", { type: "button", "aria-label": "Next pair", click: () => this.step(1) }, "\u2192"),
    );
  }

  toggleDifferences() {
    this.showsDifferences = !this.showsDifferences;
    this.showPair();
    $("pair").querySelector("[aria-pressed]")?.focus();
  }

  backToList() {
    $("browser").classList.remove("reading");
    $("list").children[this.place]?.firstChild.focus();
  }

  async step(by) {
    const place = this.place + by;
    const absolute = this.offset + place;
    if (absolute < 0 || absolute >= this.found.total) return;
    if (place < 0 || place >= this.found.rows.length) {
      await this.load(this.offset + by * PAGE, by < 0 ? PAGE - 1 : 0);
      this.read(this.place);
    } else this.read(place);
  }

  async turnPage(by) {
    await this.load(this.offset + by * PAGE);
    $("list").querySelector("button")?.focus();
  }
}

// A value that a link names and the run does not know stays visible, so that it can be reset.
function choose(control, value) {
  control.value = value;
  if (control.value === value) return;
  control.append(el("option", { value }, value));
  control.value = value;
}

function nothing(title, text, button) {
  return el("div", { class: "welcome" }, el("h2", {}, title), el("p", {}, text), button);
}
