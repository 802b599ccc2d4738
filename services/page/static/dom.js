// Elements are made of tags, attributes and text; nothing here or elsewhere turns text into markup.

export const $ = (id) => document.getElementById(id);

// el("button", { class: "quiet", click: act }, "Stop"): functions listen, null is left out.
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null) element.setAttribute(name, String(value));
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

// C0 controls but tab and newline, DEL, and the bidirectional overrides are invisible and can make
// a text read as what it is not: they become visible symbols.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f\u202a-\u202e\u2066-\u2069]/g;

export function visible(text) {
  return text.replace(HIDDEN, (character) => {
    const code = character.charCodeAt(0);
    if (code < 32) return String.fromCharCode(0x2400 + code);
    return code === 0x7f ? "\u2421" : "\ufffd";
  });
}

// Said by screen readers when they are next silent.
export function announce(text) {
  $("status").textContent = text;
}

export function plural(count, one, many = `${one}s`) {
  return `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
}

export function signed(value, digits = 3) {
  return value.toFixed(digits).replace("-", "\u2212");
}

export function seconds(milliseconds) {
  const value = milliseconds / 1000;
  return `${value.toFixed(value < 10 ? 2 : 1)} s`;
}

export function sourceColour(name, sources) {
  const place = sources.indexOf(name);
  return `source-${place < 0 ? "other" : place % 8}`;
}
