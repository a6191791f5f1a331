// What is shown: filters, order, metric, open row, chart. It stands in the address, so that a view can be passed on.

const KINDS = { pruned: "pruned", full: "full", "zero-shot": "zero-shot", reference: "references", plugins: "plugins" };
const DEFAULTS = {
  q: "",
  dataset: "",
  backbone: "",
  budget: "",
  kinds: Object.keys(KINDS).join(" "),
  certain: "",
  metric: "",
  protocol: "unmasked",
  sort: "metric",
  order: "",
  open: "",
  chart: "cost",
};
const state = { ...DEFAULTS };
const watchers = [];

const unique = (values) => [...new Set(values)];
const choices = {
  dataset: unique(board.tables.map((table) => table.dataset)),
  backbone: unique(board.tables.map((table) => (table.llm ? `${table.backbone} · ${table.llm}` : table.backbone))),
  budget: unique(board.tables.map((table) => table.budget)).sort((a, b) => a - b).map(String),
  metric: unique(board.tables.flatMap(metricsOf)),
  protocol: unique(["unmasked", ...board.tables.flatMap((t) => t.rows.flatMap((row) => Object.keys(row.metrics)))]),
  certain: ["1"],
  order: ["ascending", "descending"],
};

// Only what a control could have set is taken from an address.
function readAddress() {
  const found = new URLSearchParams(location.hash.slice(1));
  for (const [name, usual] of Object.entries(DEFAULTS)) {
    const value = found.get(name) ?? usual;
    state[name] = value === usual || !choices[name] || choices[name].includes(value) ? value : usual;
  }
  const kinds = state.kinds.split(" ").filter((kind) => kind in KINDS);
  state.kinds = kinds.join(" ");
  if (!choices.metric.includes(state.metric)) state.metric = choices.metric[0] ?? "";
}

function writeAddress() {
  const shown = new URLSearchParams();
  for (const [name, usual] of Object.entries(DEFAULTS)) {
    const own = name === "metric" ? (choices.metric[0] ?? "") : usual;
    if (state[name] !== own) shown.set(name, state[name]);
  }
  const text = shown.toString();
  try {
    history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  } catch {
    location.hash = text; // some browsers forbid the above for files
  }
}

function change(changes) {
  Object.assign(state, changes);
  writeAddress();
  for (const watcher of watchers) watcher(changes);
}

// The table's own name of the metric asked for: R@20 where there is no R@50.
function leadMetric(table) {
  const own = metricsOf(table);
  return own.includes(state.metric) ? state.metric : (own.find((one) => one[0] === state.metric[0]) ?? own[0]);
}

const figureOf = (row, metric) => row.metrics[state.protocol]?.[metric] ?? {};
const tableBackbone = (table) => (table.llm ? `${table.backbone} · ${table.llm}` : table.backbone);

function tableFits(table) {
  return (
    (!state.dataset || table.dataset === state.dataset) &&
    (!state.backbone || tableBackbone(table) === state.backbone) &&
    (!state.budget || String(table.budget) === state.budget)
  );
}

function rowFits(table, row) {
  const kinds = state.kinds.split(" ");
  if (!kinds.includes(row.kind) || (row.plugins && !kinds.includes("plugins"))) return false;
  if (state.certain && !row.metrics.unmasked?.[leadMetric(table)]?.to_random?.certain) return false;
  const text = [row.label, row.backbone_label, table.dataset, table.backbone, row.llm ?? ""].join(" ").toLowerCase();
  return state.q.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

const rowsShown = (table) => (tableFits(table) ? table.rows.filter((row) => rowFits(table, row)) : []);

// Rows by a column's value, those without one last either way, ties in the board's order.
function inOrder(rows, value, descending) {
  const missing = (one) => one === null || one === undefined || one === "";
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
  const keyed = rows.map((row, at) => [value(row), at, row]);
  keyed.sort(([a, i], [b, j]) => {
    if (missing(a) || missing(b)) return missing(a) - missing(b) || i - j;
    return (descending ? compare(b, a) : compare(a, b)) || i - j;
  });
  return keyed.map(([, , row]) => row);
}

const openKey = (table, row) => `${table.key}.${row.id}`;
const isOpen = (table, row) => state.open === openKey(table, row);
