// The columns of a table: what they show, and what they are sorted by.

function columnsOf(table) {
  const lead = leadMetric(table);
  const compared = table.rows.some((row) => figureOf(row, lead).to_random);
  const paper = table.rows.some((row) => figureOf(row, lead).paper !== undefined);
  const ranked = table.rows.some((row) => figureOf(row, lead).rank);
  const noise = table.rows.some((row) => row.noise_share !== undefined);
  const gpu = table.rows.some((row) => row.costs.peak_gpu_mb);
  const columns = [
    { key: "method", label: "Method", words: true, value: (row) => rowName(row).toLowerCase(), cell: methodCell },
    { key: "backbone", label: "Backbone", words: true, value: (row) => row.backbone_label, cell: backboneCell },
    { key: "budget", label: "Budget", value: (row) => (hasBudget(row) ? row.budget : null), cell: budgetCell },
    { key: "seeds", label: "Seeds", value: (row) => row.runs.length, cell: seedsCell },
    metricColumn(lead, true),
    spreadColumn(table, lead),
    compared && {
      key: "random",
      label: "− random",
      title: `${metricTitle(lead)} over the random row of the same budget and settings, 95% interval`,
      down: true,
      value: (row) => figureOf(row, lead).to_random?.difference,
      cell: (row) => differenceCell(figureOf(row, lead).to_random, row),
    },
    ranked && {
      key: "rank",
      label: "Rank",
      title: `Places by ${metricTitle(lead)} in 95% of redraws`,
      value: (row) => (figureOf(row, lead).rank ? figureOf(row, lead).rank[0] + figureOf(row, lead).rank[1] : null),
      cell: (row) => [rankWords(figureOf(row, lead).rank)],
    },
    paper && {
      key: "paper",
      label: "Paper",
      title: `The paper's ${metricTitle(lead)} (LLaMA-7B for bigrec)`,
      down: true,
      value: (row) => figureOf(row, lead).paper,
      cell: (row) => [figure(figureOf(row, lead).paper)],
    },
    ...metricsOf(table).filter((metric) => metric !== lead).map((metric) => metricColumn(metric, false)),
    { ...costColumn("total", "Total", "total_s"), strong: true },
    {
      key: "of-full",
      label: "Of full",
      title: "Share of what the run on all samples costs in total",
      value: (row) => row.costs.of_full,
      cell: (row) => [percent(row.costs.of_full)],
    },
    costColumn("pruning", "Pruning", "pruning_s"),
    costColumn("fine-tuning", "Fine-tuning", "fine_tuning_s"),
    costColumn("inference", "Inference", "inference_s"),
    {
      key: "memory",
      label: "Memory",
      title: gpu ? "Peak of the processor's and of the GPU's memory" : "Peak memory",
      value: (row) => row.costs.peak_rss_mb + row.costs.peak_gpu_mb || null,
      cell: (row) => [memory(row.costs)],
    },
    noise && {
      key: "noise",
      label: "Noise kept",
      title: "Share of planted noise among the samples kept",
      value: (row) => row.noise_share,
      cell: (row) => [percent(row.noise_share)],
    },
  ].filter(Boolean);
  const aside = (column) => narrow.matches && ["backbone", "budget", "seeds"].includes(column.key);
  return [...columns.filter((column) => !aside(column)), ...columns.filter(aside)];
}

// On a narrow screen the figures come next to the method.
const narrow = matchMedia("(max-width: 44rem)");

const GROUPS = { metric: "accuracy", random: "accuracy", rank: "accuracy", paper: "accuracy" };
const COST = ["pruning", "fine-tuning", "inference", "total", "of-full", "memory"];

function groupOf(column) {
  if (COST.includes(column.key)) return "Cost of one run";
  return column.metric || GROUPS[column.key] ? `Accuracy, ${state.protocol}` : "";
}

// "metric" in an address means whichever metric is chosen, so that a new choice keeps the order.
function metricColumn(metric, lead) {
  return {
    key: lead ? "metric" : metric,
    metric,
    label: metric,
    title: `${metricTitle(metric)}, mean ± standard deviation over seeds`,
    down: true,
    strong: lead,
    lead,
    value: (row) => figureOf(row, metric).mean,
    cell: (row) => scoreCell(figureOf(row, metric)),
  };
}

function costColumn(key, label, name) {
  return {
    key,
    label,
    title: "Wall-clock time, mean over runs",
    value: (row) => row.costs[name],
    cell: (row) => [duration(row.costs[name])],
  };
}

function methodCell(row, table) {
  const [name, own] = row.label === DASH ? [row.backbone_label, ""] : labelParts(row.label);
  const tags = [];
  if (row.plugins) tags.push(tag("plugin", "Made with code that is not prunebench's; it may see what it likes"));
  if (row.chose_by_validation) tags.push(tag("†", "Reads validation users to choose", "reads validation users"));
  const opening = button(
    "open",
    { "aria-expanded": String(isOpen(table, row)), "aria-controls": detailsId(table, row), "data-key": `row ${row.id}` },
    () => change({ open: isOpen(table, row) ? "" : openKey(table, row) }),
    isolated(name),
    own ? isolated(own, "small") : null,
    row.kind === "reference" ? hidden(" reference") : null,
  );
  return [opening, ...tags];
}

function tag(text, title, spoken) {
  const shown = spoken ? [h("span", { "aria-hidden": "true" }, text), hidden(spoken)] : [text];
  return h("span", { class: "tag", title }, ...shown);
}

function backboneCell(row) {
  const [name, own] = labelParts(row.backbone_label);
  return [isolated(name), own ? isolated(own, "small") : null];
}

function budgetCell(row) {
  return [hasBudget(row) ? count(row.budget) : DASH];
}

function seedsCell(row) {
  const all = row.runs.length + row.lacks.length;
  return [row.lacks.length ? `${row.runs.length} of ${all}` : String(row.runs.length)];
}

function scoreCell(one) {
  if (one.mean === undefined) return [DASH];
  const spread = one.sd === undefined ? null : h("small", { class: "sd" }, ` ± ${figure(one.sd)}`);
  return [h("span", { class: "mean" }, figure(one.mean)), spread];
}

function differenceCell(one, row) {
  if (one?.difference === undefined) {
    return row.method === "random" && row.kind === "pruned" ? [h("span", { class: "baseline" }, "baseline")] : [DASH];
  }
  const beside = one.interval ? h("small", {}, ` ${interval(one.interval)}`) : null;
  if (!one.certain) return [h("span", { class: "mean" }, signed(one.difference)), beside];
  const above = one.difference > 0;
  const mark = h("span", { class: "mark", "aria-hidden": "true" }, above ? "▲" : "▼");
  const spoken = hidden(above ? " certainly above random" : " certainly below random");
  return [h("strong", { class: above ? "above" : "below" }, mark, signed(one.difference), spoken), beside];
}

// Mean ± sd of all rows on one scale, and where random stands.
function spreadColumn(table, lead) {
  const known = table.rows.map((row) => figureOf(row, lead)).filter((one) => one.mean !== undefined);
  const most = Math.max(...known.map((one) => one.mean + (one.sd ?? 0)), 1e-9);
  const least = Math.min(...known.map((one) => one.mean - (one.sd ?? 0)));
  const from = !known.length || least < 0.4 * most ? 0 : least - 0.1 * (most - least);
  const baseline = table.rows.find((row) => row.method === "random" && row.kind === "pruned");
  const level = baseline && figureOf(baseline, lead).mean;
  const scale = linear(from, most, 4, 84);
  const at = (value) => scale(Math.min(Math.max(value, from), most));
  const cell = (row) => {
    const one = figureOf(row, lead);
    const picture = canvas(88, 18, { class: `spread ${row.kind} ${row.foreign ? "foreign" : ""}` });
    if (level !== undefined) picture.append(line("level", at(level), 0, at(level), 18));
    if (one.mean === undefined) return [picture];
    if (one.sd !== undefined) picture.append(line("whisker", at(one.mean - one.sd), 9, at(one.mean + one.sd), 9));
    picture.append(svg("circle", { class: "dot", cx: at(one.mean), cy: 9, r: 3.5 }));
    return [picture];
  };
  return { key: "spread", label: `${from ? figure(from) : "0"} – ${figure(most)}`, picture: true, cell };
}
