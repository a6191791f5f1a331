// What everything else is made with: elements, which take text and never markup, and figures in words.

const DASH = "–";
const board = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

// An element; `on` maps events to listeners, null and false leave an attribute out, children are nodes or plain text.
function h(name, attributes, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function svg(name, attributes, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (key === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(key, value === true ? "" : value);
    }
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

// A word that readers of the screen hear and nobody sees.
const hidden = (text) => h("span", { class: "sr" }, text);
const isolated = (text, name = "bdi", attributes = {}) => h(name, { dir: "auto", ...attributes }, text);

// Rounded as Python does it, a half to the even digit; toFixed rounds it up, and leaderboard.md would have other figures.
const rounding = (digits) => {
  const format = new Intl.NumberFormat("en", { useGrouping: false, roundingMode: "halfEven", ...digits });
  return (value) => format.format(value);
};
const decimals = [0, 1, 2, 3, 4].map((n) => rounding({ minimumFractionDigits: n, maximumFractionDigits: n }));
const significant = rounding({ maximumSignificantDigits: 3 });

// The same words as in leaderboard.md.
function figure(value) {
  if (value === null || value === undefined) return DASH;
  const text = decimals[4](value);
  return text.startsWith("0") ? text.slice(1) : text;
}

function signed(value) {
  if (value === null || value === undefined) return DASH;
  const text = figure(Math.abs(value));
  return Number(text) === 0 ? text : (value > 0 ? "+" : "−") + text;
}

function interval(pair) {
  return pair ? `[${signed(pair[0])}, ${signed(pair[1])}]` : null;
}

function rankWords(pair) {
  return pair ? (pair[0] === pair[1] ? `${pair[0]}` : `${pair[0]}–${pair[1]}`) : DASH;
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return DASH;
  if (seconds < 59.95) return `${decimals[1](seconds)} s`;
  return seconds < 3597 ? `${decimals[1](seconds / 60)} min` : `${decimals[2](seconds / 3600)} h`;
}

function memory(costs) {
  if (!costs.peak_rss_mb) return DASH;
  const gpu = costs.peak_gpu_mb ? ` + ${decimals[1](costs.peak_gpu_mb / 1024)} GPU` : "";
  return `${decimals[1](costs.peak_rss_mb / 1024)} GB${gpu}`;
}

function percent(share) {
  if (share === null || share === undefined) return DASH;
  return `${(share < 0.9995 ? significant : decimals[0])(100 * share)}%`;
}

function probability(p) {
  if (p === null || p === undefined) return DASH;
  return p < 0.001 ? "<.001" : decimals[3](p).replace(/^0/, "");
}

const count = (number) => String(number).replace(/\B(?=(\d{3})+$)/g, ",");
const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;

function seedWords(seeds) {
  if (seeds.signal === seeds.selection && seeds.selection === seeds.finetune) return `seed ${seeds.selection}`;
  return `seeds: signal ${seeds.signal}, selection ${seeds.selection}, fine-tuning ${seeds.finetune}`;
}

// "dealrec (lam=1)" → ["dealrec", "lam=1"]
function labelParts(label) {
  const at = label.indexOf(" (");
  return at > 0 && label.endsWith(")") ? [label.slice(0, at), label.slice(at + 2, -1)] : [label, ""];
}

const rowName = (row) => (row.label === DASH ? row.backbone_label : row.label);
const hasBudget = (row) => !(row.kind === "reference" && row.label === DASH);
const metricsOf = (table) => ["R", "N"].flatMap((letter) => table.cutoffs.map((k) => `${letter}@${k}`));
const metricTitle = (metric) => `${metric[0] === "R" ? "Recall" : "NDCG"} at ${metric.slice(2)}`;

// Named facts, those without a value left out.
function facts(pairs, name = "settings") {
  const known = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  const entry = ([key, value]) => h("div", {}, h("dt", {}, isolated(key)), h("dd", {}, isolated(value)));
  return h("dl", { class: name }, ...known.map(entry));
}

const button = (name, attributes, act, ...children) =>
  h("button", { type: "button", class: name, ...attributes, on: { click: act } }, ...children);

// What is moved or drawn anew has lost the focus: it, or what has its name in the same section, gets it back.
function keepFocus(draw) {
  const held = document.activeElement;
  const section = held.closest("section.board");
  draw();
  if (document.activeElement === held || !section || !held.dataset.key) return;
  const named = [...section.querySelectorAll("[data-key]")].find((one) => one.dataset.key === held.dataset.key);
  named?.focus({ preventScroll: true });
}

// A listener that waits until nothing has happened for a moment.
function later(milliseconds, action) {
  let timer = 0;
  return (...all) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...all), milliseconds);
  };
}
