// The charts of a table: one at a time, with its legend, a summary in words, and the same as a table.

const CHARTS = {
  cost: ["Accuracy and cost", costChart, (section) => section.model.cost.length],
  budget: ["Accuracy and budget", budgetChart, (section) => budgetModel(section.table)],
  scores: ["Scores", scoresChart, (section) => section.model.scores],
  overlap: ["Overlap", overlapChart, (section) => section.model.overlap],
  stages: ["Where the time goes", stagesChart, (section) => section.model.stages],
};

function drawCharts(section) {
  hideTip();
  const kinds = Object.keys(CHARTS).filter((kind) => CHARTS[kind][2](section));
  section.charts.hidden = kinds.length === 0;
  if (!kinds.length || section.element.hidden) return;
  const kind = kinds.includes(state.chart) ? state.chart : kinds[0];
  if (section.kind !== kind) section.off = new Set();
  section.kind = kind;
  const [title, draw] = CHARTS[kind];
  const id = `chart-${section.table.key}`;
  const made = draw(section, Math.max(section.charts.clientWidth, 280));
  const panel = h(
    "div",
    { id, role: "tabpanel", "aria-labelledby": `${id}-${kind}` },
    made ? chartFigure(section, title, made) : h("p", { class: "note" }, "No row has this metric."),
  );
  keepFocus(() => section.charts.replaceChildren(tabs(section, kinds, kind, id), panel));
}

function chartFigure(section, title, made) {
  for (const picture of made.content) if (picture.matches("svg")) picture.setAttribute("aria-label", title);
  const other = made.unmasked && state.protocol !== "unmasked" ? " Drawn from the unmasked protocol." : null;
  return h(
    "figure",
    {},
    legendOf(section, made.legend),
    h("div", { class: "canvas" }, ...made.content),
    h("figcaption", {}, made.summary, other),
    asTable(section, made),
  );
}

function tabs(section, kinds, now, id) {
  const buttons = kinds.map((kind) => {
    const chosen = kind === now;
    const attributes = {
      role: "tab",
      id: `${id}-${kind}`,
      "data-key": `tab ${kind}`,
      "aria-selected": String(chosen),
      "aria-controls": chosen ? id : null,
      tabindex: chosen ? 0 : -1,
    };
    return button("tab", attributes, () => change({ chart: kind }), CHARTS[kind][0]);
  });
  const move = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const kind = kinds[(kinds.indexOf(now) + step + kinds.length) % kinds.length];
    change({ chart: kind });
    byId(`${id}-${kind}`).focus();
  };
  return h("div", { class: "tabs", role: "tablist", "aria-label": "Charts", on: { keydown: move } }, ...buttons);
}

function legendOf(section, entries) {
  if (!entries.length) return null;
  const toggle = (key) => {
    if (!section.off.delete(key)) section.off.add(key);
    drawCharts(section);
  };
  const made = entries.map((entry) => {
    const attributes = { "data-key": `legend ${entry.key}`, "aria-pressed": String(!section.off.has(entry.key)) };
    return button("entry", attributes, () => toggle(entry.key), legendSample(entry), isolated(entry.name));
  });
  return h("div", { class: "legend", role: "group", "aria-label": "Legend: what is drawn" }, ...made);
}

function legendSample(entry) {
  const sample = svg("svg", { width: 16, height: 14, "aria-hidden": "true" });
  const swatch = svg("rect", { class: `bar ${entry.swatch ?? ""}`, x: 1, y: 1, width: 14, height: 12 });
  if (entry.phase) shade(swatch, entry.phase, 0.4);
  sample.append(entry.look ? marker(entry.look, 8, 7, 4.5) : entry.line ? line(entry.line, 0, 7, 16, 7) : swatch);
  return sample;
}

function asTable(section, made) {
  const inside = h("div", {});
  const fold = h("details", { open: section.asTable }, h("summary", { "data-key": "as table" }, "Show as table"), inside);
  const show = () => {
    section.asTable = fold.open;
    if (fold.open === inside.hasChildNodes()) return; // what is inserted open says so once more
    const figures = grid(made.head, made.rows, made.words);
    figures.dataset.key = "figures";
    inside.replaceChildren(...(fold.open ? [figures] : []));
  };
  fold.addEventListener("toggle", show);
  if (fold.open) show();
  return fold;
}

// Leads from a mark to its row, past a filter that hides its table.
function openRow(table, id) {
  hideTip();
  const row = table.rows.find((one) => one.id === id);
  change({ open: openKey(table, row), budget: tableFits(table) ? state.budget : "" });
  const opened = byId(`at-${table.key}`).querySelector('button.open[aria-expanded="true"]');
  opened.focus({ preventScroll: true });
  opened.closest("tr").scrollIntoView({ block: "center" });
}
