"use strict";

(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const darkScheme = matchMedia("(prefers-color-scheme: dark)");
  const config = { displayModeBar: false };
  const fitted = new ResizeObserver((entries) => {
    for (const entry of entries) Plotly.Plots.resize(entry.target);
  });

  // "@name" or "@name/opacity" becomes what the style sheet's variable --name holds now.
  const inColour = (text, style) => {
    const found = /^@([a-z0-9-]+)(?:\/([\d.]+))?$/.exec(text);
    if (!found) return text;
    const hex = style.getPropertyValue(`--${found[1]}`).trim();
    if (!found[2]) return hex;
    const channels = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
    return `rgba(${channels.join(",")},${found[2]})`;
  };

  const painted = (value, style) => {
    if (typeof value === "string") return inColour(value, style);
    if (Array.isArray(value)) return value.map((item) => painted(item, style));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, v]) => [key, painted(v, style)]));
  };

  const draw = (figure) => {
    const style = getComputedStyle(document.documentElement);
    const { traces, layout } = painted({ traces: figure.traces, layout: figure.layout }, style);
    return Plotly.react(figure.id, traces, layout, config);
  };

  // One chart a task: the first is on the screen long before the last is drawn.
  const drawFrom = async (index) => {
    if (index === figures.length) {
      document.documentElement.dataset.charts = "drawn";
      return;
    }
    await draw(figures[index]);
    fitted.observe(document.getElementById(figures[index].id));
    setTimeout(() => drawFrom(index + 1));
  };

  darkScheme.addEventListener("change", () => figures.forEach(draw));
  drawFrom(0);
})();
