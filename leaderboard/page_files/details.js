// What is behind a row: every metric with its differences, settings, runs with their commands and records, stages.

function detailsRow(section, row) {
  const { table } = section;
  const id = detailsId(table, row);
  const known = byId(id);
  if (known?.dataset.columns === String(section.columns.length)) return known;
  known?.remove();
  const inner = h(
    "div",
    { class: "details" },
    part("All metrics", metricsTable(row)),
    part("Settings that differ from the defaults", settings(row)),
    part("Stages, seconds per run", stagesTable(section, row)),
    part("Runs", h("ul", { class: "runs" }, ...row.runs.map(runItem)), lacks(row)),
  );
  const cell = h("td", { colspan: section.columns.length }, inner);
  return h("tr", { class: "behind", id, "data-columns": section.columns.length }, cell);
}

function part(title, ...content) {
  const shown = content.filter(Boolean);
  return shown.length ? h("section", {}, h("h3", {}, title), ...shown) : null;
}

function grid(head, rows, words = 1) {
  const kind = (at) => (at < words ? "words" : "number");
  const heads = head.map((name, at) => h("th", { scope: "col", class: kind(at) }, name));
  const cell = (value, at) => h(at ? "td" : "th", { scope: at ? null : "row", class: kind(at) }, value);
  const lines = rows.map((cells) => h("tr", {}, ...cells.map(cell)));
  const table = h("table", { class: "grid" }, h("thead", {}, h("tr", {}, ...heads)), h("tbody", {}, ...lines));
  return h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Figures" }, table);
}

function differenceWords(one) {
  if (one?.difference === undefined) return DASH;
  const words = [signed(one.difference), interval(one.interval)].filter(Boolean).join(" ");
  return one.certain ? h("strong", {}, words, hidden(" certain")) : words;
}

function metricsTable(row) {
  const spreads = ["Mean", "sd, seeds", "sd, fine-tuning", "Paper"];
  const head = ["Metric", ...spreads, "− random", "p (Holm)", "− best", "p (Holm)", "Other users ±", "Rank"];
  const rows = Object.entries(row.metrics).flatMap(([protocol, figures]) =>
    Object.entries(figures).map(([metric, one]) => [
      protocol === "unmasked" ? metric : `${metric}, ${protocol}`,
      figure(one.mean),
      figure(one.sd),
      figure(one.sd_finetune),
      figure(one.paper),
      differenceWords(one.to_random),
      probability(one.to_random?.holm),
      differenceWords(one.to_best),
      probability(one.to_best?.holm),
      figure((one.to_random ?? one.to_best)?.se_users),
      rankWords(one.rank),
    ]),
  );
  const filled = head.map((_, at) => at < 2 || rows.some((cells) => cells[at] !== DASH));
  const keep = (cells) => cells.filter((_, at) => filled[at]);
  return grid(keep(head), rows.map(keep));
}

function settings(row) {
  const changes = Object.entries(row.changes);
  if (!changes.length) return h("p", { class: "quiet" }, "None.");
  const text = (value) => (typeof value === "string" ? value : JSON.stringify(value));
  return facts(changes.map(([key, value]) => [key, text(value)]));
}

function stagesTable(section, row) {
  const stages = section.model.stages?.rows.find((one) => one.id === row.id)?.stages ?? [];
  if (!stages.length) return null;
  const total = stages.reduce((sum, one) => sum + one.seconds, 0) || 1;
  const cells = (one) => [one.stage, one.phase, duration(one.seconds), percent(one.seconds / total)];
  return grid(["Stage", "Phase", "Time", "Share"], stages.map(cells), 2);
}

function lacks(row) {
  if (!row.lacks.length) return null;
  const which = row.lacks.map(seedWords).join("; ");
  return h("p", { class: "note" }, `Lacks ${which}, which other rows have: compare it by its differences.`);
}

function runItem(run) {
  const about = [
    ["Record", run.record_sha256],
    ["Hardware", run.hardware.join(" and ")],
    ["Commit", run.git_commit],
    ["Finished", run.finished],
  ];
  return h(
    "li",
    {},
    h("p", {}, h("b", {}, seedWords(run.seeds)), " · run ", h("code", {}, run.run)),
    run.command ? command(run.command) : null,
    facts(about),
  );
}

function command(text) {
  const code = h("code", { dir: "ltr" }, text);
  const said = h("span", { role: "status", class: "said" });
  const copy = async () => {
    said.textContent = (await copied(text, code)) ? "Copied" : "Selected: copy it with your keyboard";
    setTimeout(() => (said.textContent = ""), 4000);
  };
  return h("p", { class: "command" }, code, button("small", { "aria-label": `Copy: ${text}` }, copy, "Copy"), said);
}

async function copied(text, element) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    getSelection().selectAllChildren(element); // no clipboard for files, or not allowed: select it, and try the old way
    return document.execCommand("copy");
  }
}
