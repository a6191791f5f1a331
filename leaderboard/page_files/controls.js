// The bar of filters, what the page says of itself, the theme.

const PROTOCOLS = { unmasked: "ranked (unmasked)", masked: "removed (masked)" };

function makeFilters() {
  const form = byId("filters");
  const typed = { type: "search", id: "q", name: "q", autocomplete: "off", spellcheck: "false" };
  const search = h("input", { ...typed, placeholder: "dealrec, tiger, lam …" });
  search.addEventListener("input", later(120, () => change({ q: search.value.trim() })));
  form.append(
    h(
      "div",
      { class: "fields" },
      field("Search", "q", search),
      chosen("dataset", "Data set", "All"),
      chosen("backbone", "Backbone", "All"),
      chosen("budget", "Budget", "All"),
      chosen("metric", "Metric"),
      chosen("protocol", "History items"),
    ),
    h(
      "fieldset",
      { class: "chips" },
      h("legend", {}, "Rows"),
      ...Object.entries(KINDS).map(([kind, name]) => chip(`kind-${kind}`, name, null, (on) => showKind(kind, on))),
      h("span", { class: "gap" }),
      chip("certain", "certain only", "Only rows whose difference to random is certain", (on) =>
        change({ certain: on ? "1" : "" }),
      ),
      button("small", { id: "reset" }, reset, "Reset"),
    ),
  );
  form.addEventListener("submit", (event) => event.preventDefault());
}

function chosen(name, label, all) {
  const words = (value) => PROTOCOLS[value] ?? (name === "budget" ? count(value) : value);
  const options = choices[name].map((value) => h("option", { value }, words(value)));
  const element = h("select", { id: name, name }, all ? h("option", { value: "" }, all) : null, ...options);
  element.addEventListener("change", () => change({ [name]: element.value }));
  return field(label, name, element);
}

function chip(name, label, title, listener) {
  const box = h("input", { type: "checkbox", name, on: { change: (event) => listener(event.target.checked) } });
  return h("label", { class: "chip", title }, box, h("span", {}, label));
}

function showKind(kind, on) {
  const now = state.kinds.split(" ");
  change({ kinds: Object.keys(KINDS).filter((one) => (one === kind ? on : now.includes(one))).join(" ") });
}

function field(label, id, element) {
  return h("div", { class: `field ${id}` }, h("label", { for: id }, label), element);
}

function reset() {
  const { open, chart } = state;
  change({ ...DEFAULTS, metric: choices.metric[0] ?? "", open, chart });
}

function showFilters() {
  for (const name of ["dataset", "backbone", "budget", "metric", "protocol"]) byId(name).value = state[name];
  if (byId("q").value.trim() !== state.q) byId("q").value = state.q;
  const form = byId("filters");
  const kinds = state.kinds.split(" ");
  for (const kind of Object.keys(KINDS)) form.elements[`kind-${kind}`].checked = kinds.includes(kind);
  form.elements.certain.checked = state.certain === "1";
}

function makeFacts() {
  const rows = board.tables.flatMap((table) => table.rows);
  const runs = new Map(rows.flatMap((row) => row.runs.map((run) => [run.run, run])));
  const last = [...runs.values()].map((run) => run.finished).sort().at(-1)?.slice(0, 10);
  const records = board.records.slice(0, 12);
  const about = [
    ["Runs", count(runs.size)],
    ["Rows", count(rows.length)],
    ["Data sets", choices.dataset.join(", ")],
    ["Backbones", unique(board.tables.map((table) => table.backbone)).join(", ")],
    ["Split", board.split],
    ["Last run", last],
    ["Records", records],
  ];
  byId("facts").replaceWith(facts(about, "facts"));
  const what = `prunebench leaderboard, ${choices.dataset.join(", ") || "no data"} (${board.split} split)`;
  byId("cite").append(
    h("p", {}, "Cite a row by the SHA-256 of its records, which its details show, and the board by that of them all:"),
    command(`${what}, ${plural(runs.size, "run")}, records ${records}${last ? `, last run ${last}` : ""}`),
    h("p", {}, "The whole board is made from those records, and compared with them, by one command each:"),
    command("bench leaderboard build --records records --out ."),
    command("bench leaderboard check --records records --published ."),
  );
}

const LEGEND = [
  [
    "R, N",
    `Recall and NDCG over all items, ties in expectation: mean ± sample standard deviation over seeds. The picture
    beside shows the same on one scale; the line is the random draw.`,
  ],
  [
    "History items",
    `As the paper evaluates, items of a user's history stay in the ranking (unmasked), and rows are compared so;
    masked has them removed.`,
  ],
  [
    "− random",
    `How much higher than the random row of that budget whose settings differ least, with its 95% interval. Fewer
    than six seeds in common: the paired t interval over seeds. One seed: a difference, and no word on how sure it
    is.`,
  ],
  [
    "▲ ▼ certain",
    `The interval leaves out 0, p is below .05 after Holm's correction for all rows of the data set, backbone and
    metric, and chance among users cannot explain it. No other difference should be cited as one.`,
  ],
  [
    "Rank",
    `The places a row takes in 95% of redraws of seeds and users, among all rows of its backbone that lack no seed; a
    rough guide.`,
  ],
  [
    "Seeds",
    `“1 of 3” lacks two that other rows have. Compare such a row by its differences, which are over the seeds both
    have.`,
  ],
  [
    "Times",
    `Wall clock per run; total = pruning + fine-tuning + inference, not pre-training. A dash: different hardware,
    which does not add up. Of full: share of what the run on all samples costs.`,
  ],
  ["Italic", "References: backbones every table is read against, on all the data; no selection can change them."],
  ["†", "Reads validation users to choose samples."],
  [
    "Plugin",
    `Made with code that is not prunebench's. Where such code chose the samples it may have seen what it likes, as
    oracles do: it is never taken for the best method, and its mark is hollow.`,
  ],
];

function makeLegend() {
  byId("legend").append(...LEGEND.map(([name, text]) => h("li", {}, h("b", {}, name), " ", text)));
}

const THEMES = ["auto", "light", "dark"];
const THEME_KEY = "prunebench-theme";

function makeTheme() {
  const toggle = byId("theme");
  let now = "auto";
  try {
    now = localStorage.getItem(THEME_KEY) ?? "auto";
  } catch {
    // no storage for this page: the choice lasts as long as it is open
  }
  const show = () => {
    if (!THEMES.includes(now)) now = "auto";
    if (now === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = now;
    toggle.textContent = `Theme: ${now}`;
  };
  toggle.addEventListener("click", () => {
    now = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
    show();
    try {
      localStorage.setItem(THEME_KEY, now);
    } catch {
      // as above
    }
  });
  show();
}
