// Where the scores of kept samples lie, what selections share, what stages cost: a picture or a line per row.

const short = (value) => String(Number(value.toPrecision(3)));
const idsShown = (section) => new Set(rowsShown(section.table).map((row) => row.id));

function scoresChart(section, width) {
  if (!section.model.scores) return null;
  const shown = idsShown(section);
  const rows = section.model.scores.rows.filter((row) => shown.has(row.id));
  const columns = Math.max(1, Math.min(3, Math.floor(width / 300)));
  const wide = Math.floor((width - 24 * (columns - 1)) / columns);
  return {
    content: [h("div", { class: "multiples" }, ...rows.map((row) => scorePicture(section, row, wide)))],
    legend: [
      { key: "all", name: "all samples", swatch: "all" },
      { key: "kept", name: "kept samples", swatch: "kept" },
      { key: "strata", name: "strata", line: "stratum" },
    ],
    summary: `How scores are spread over all samples and over those kept, each as a share of its own in bins of equal
      width; first seed of each row. Fine lines: the strata drawn from; shaded: dropped before the draw.`,
    head: ["Row", "Score", "From", "To", "Samples", "Kept"],
    words: 2,
    rows: rows.flatMap(binCells),
  };
}

function binCells({ label: name, summary }) {
  const cells = summary.samples.map((many, at) => {
    const [from, to] = [summary.edges[at], summary.edges[at + 1]].map(short);
    return [name, summary.name, from, to, count(many), count(summary.kept[at])];
  });
  return cells.filter((_, at) => summary.samples[at]);
}

function scorePicture(section, row, width) {
  const { summary } = row;
  const { edges } = summary;
  const [low, high] = [edges[0], edges.at(-1)];
  const [left, right, top, bottom] = [6, width - 6, 26, 116];
  const x = linear(low, high, left, right);
  const shares = (counts) => {
    const sum = counts.reduce((so, one) => so + one, 0) || 1;
    return counts.map((one) => one / sum);
  };
  const [all, kept] = [shares(summary.samples), shares(summary.kept)];
  const y = linear(0, Math.max(...all, ...kept), bottom, top);
  const steps = (values) => {
    const bins = values.map((value, at) => `V${y(value)}H${x(edges[at + 1])}`);
    return `M${left},${bottom}${bins.join("")}V${bottom}`;
  };
  const box = (name, from, to) =>
    svg("rect", { class: name, x: x(from), width: Math.max(x(to) - x(from), 1), y: top, height: bottom - top });
  const picture = canvas(width, 140, { role: "group", "aria-label": `${row.label}: ${summary.name}` });
  picture.append(label(row.label, left, 14, "start", "name strong"), label(summary.name, right, 14, "end", "tick"));
  if (!section.off.has("all")) picture.append(svg("path", { class: "all", d: `${steps(all)}z` }));
  if (summary.dropped_from < high) picture.append(box("dropped", Math.max(summary.dropped_from, low), high));
  if (!section.off.has("strata")) {
    const inside = summary.strata.filter((one) => one > low && one < high);
    picture.append(...inside.map((one) => line("stratum", x(one), bottom, x(one), bottom - 7)));
  }
  const { colour } = lookOf(row.method);
  if (!section.off.has("kept")) picture.append(svg("path", { class: `kept ${colour}`, d: steps(kept) }));
  picture.append(
    line("axis", left, bottom, right, bottom),
    label(short(low), left, bottom + 16, "start", "tick"),
    label(short(high), right, bottom + 16, "end", "tick"),
  );
  const bins = summary.samples.map((many, at) => ({
    element: box("bin", edges[at], edges[at + 1]),
    lines: [
      row.label,
      `${short(edges[at])} to ${short(edges[at + 1])}`,
      `${plural(many, "sample")}, ${count(summary.kept[at])} kept`,
    ],
    act: () => openRow(section.table, row.id),
  }));
  picture.append(...bins.map((bin) => bin.element));
  answering(picture, bins);
  return picture;
}

// Room for names left of a list, in pixels.
const nameRoom = (names, most) => Math.min(Math.max(...names.map((name) => name.length), 4) * LETTER + 10, most);

function overlapChart(section, width) {
  const model = section.model.overlap;
  if (!model) return null;
  const shown = idsShown(section);
  const at = [...model.ids.keys()].filter((index) => shown.has(model.ids[index]));
  const pairs = at
    .flatMap((i) => at.filter((j) => j > i).map((j) => [i, j, model.shared[i][j]]))
    .filter(([, , value]) => value !== null)
    .sort((a, b) => b[2] - a[2]);
  const named = pairs.map(([i, j, value]) => [model.labels[i], model.labels[j], percent(value)]);
  const closest = named.length ? `Most alike: ${named[0][0]} and ${named[0][1]}, ${named[0][2]}.` : "";
  return {
    content: [overlapPicture(section, model, at, width, pairs[0]?.[2] || 1)],
    legend: [],
    summary: `Share of the kept samples that two rows have in common, in percent, mean over the seeds both have; two
      random draws share ${percent(section.table.share)}. ${closest}`,
    head: ["Row", "and", "In common"],
    words: 2,
    rows: named,
  };
}

// `at`: the rows of the model to show; the darkest colour is for `most`.
function overlapPicture(section, model, at, width, most) {
  const start = nameRoom(at.map((index) => model.labels[index]), width * 0.34);
  const head = Math.min(start, 130);
  const size = Math.max(12, Math.min(44, (width - start - 4) / (at.length || 1)));
  const picture = canvas(width, head + size * at.length + 6, { role: "group" });
  const cells = at.flatMap((i, row) =>
    at.map((j, column) => {
      const value = i === j ? undefined : model.shared[i][j];
      const names = i === j ? [model.labels[i]] : [`${model.labels[i]} and ${model.labels[j]}`, sharedWords(value)];
      const element = overlapCell(value, most, start + column * size, head + row * size, size);
      return { element, lines: names, act: () => openRow(section.table, model.ids[i]) };
    }),
  );
  at.forEach((index, place) => {
    const middle = place * size + size / 2;
    const [x, y] = [start + middle + 3, head - 6];
    const above = { x, y, transform: `rotate(-60 ${x} ${y})`, class: "name" };
    picture.append(
      label(shortened(model.labels[index], start / LETTER), start - 8, head + middle + 4, "end", "name"),
      svg("text", above, shortened(model.labels[index], head / 5.9)),
    );
  });
  picture.append(...cells.map((cell) => cell.element));
  answering(picture, cells, at.length);
  return picture;
}

function sharedWords(value) {
  return value === null ? "no seed in common" : `${percent(value)} of the kept samples in common`;
}

// `value`: null where there is none, undefined on the diagonal.
function overlapCell(value, most, x, y, size) {
  const strength = Math.min((value ?? 0) / most, 1);
  const square = { x, y, width: size - 1.5, height: size - 1.5 };
  const box = svg("rect", value === undefined ? { class: "cell self", ...square } : { class: "cell", ...square });
  if (value !== undefined) box.setAttribute("fill-opacity", strength.toFixed(3));
  if (size < 30 || value === null || value === undefined) return svg("g", {}, box);
  const name = strength > 0.55 ? "value inverse" : "value";
  return svg("g", {}, box, label(String(Math.round(100 * value)), x + size / 2, y + size / 2 + 3.5, "middle", name));
}

const PHASES = Object.keys(board.phases);
const STEP = 24; // pixels from one row's bar to the next

function stagesChart(section, width) {
  const model = section.model.stages;
  if (!model) return null;
  const byRow = new Map(model.rows.map((row) => [row.id, row]));
  const kept = (row) => row.stages.filter((stage) => !section.off.has(stage.phase) && stage.seconds > 0);
  const rows = sortedRows(section)
    .filter((row) => byRow.has(row.id))
    .map((row) => ({ ...byRow.get(row.id), stages: kept(byRow.get(row.id)) }));
  const left = model.left_out ? ` Not drawn, for want of comparable seconds: ${plural(model.left_out, "row")}.` : "";
  const cells = (row) => row.stages.map((stage) => [row.label, stage.stage, stage.phase, duration(stage.seconds)]);
  return {
    content: rows.length ? [stagesPicture(section, rows, shadesOf(model), width)] : [],
    legend: PHASES.map((phase) => ({ key: phase, name: phase, phase })),
    summary: `Seconds per run of each stage, in the order of the table.${left}`,
    head: ["Row", "Stage", "Phase", "Time"],
    words: 3,
    rows: rows.flatMap(cells),
  };
}

function stagesPicture(section, rows, shades, width) {
  const totals = rows.map((row) => row.stages.reduce((sum, stage) => sum + stage.seconds, 0));
  const names = nameRoom(rows.map((row) => row.label), width * 0.36);
  const [top, bottom] = [6, rows.length * STEP + 10];
  const longest = Math.max(...totals, 1e-9);
  const x = linear(0, longest, names, width - 64);
  const picture = canvas(width, bottom + 28, { role: "group" });
  for (const tick of evenTimes(longest, width / 110)) {
    picture.append(
      line("gridline", x(tick), top, x(tick), bottom),
      label(timeWords(tick), x(tick), bottom + 17, "middle", "tick"),
    );
  }
  const marks = rows.flatMap((row, place) => {
    const y = top + place * STEP;
    let from = 0;
    const bars = row.stages.map((stage) => {
      const start = x(from);
      from += stage.seconds;
      const wide = Math.max(x(from) - start - 1, 0.75);
      const element = svg("rect", { class: "bar", x: start, y: y + 3, width: wide, height: 17 });
      shade(element, stage.phase, shades.get(`${stage.phase} ${stage.stage}`));
      const share = percent(stage.seconds / totals[place]);
      const lines = [row.label, `${stage.stage} (${stage.phase})`, `${duration(stage.seconds)}, ${share}`];
      return { element, lines, act: () => openRow(section.table, row.id) };
    });
    picture.append(
      label(shortened(row.label, names / LETTER), names - 8, y + 16, "end", "name"),
      label(duration(totals[place]), x(from) + 6, y + 16, "start", "tick"),
    );
    return bars;
  });
  picture.append(...marks.map((mark) => mark.element));
  answering(picture, marks);
  return picture;
}

// Colours an element that share of the way through its phase's colours.
function shade(element, phase, share) {
  const steps = board.phases[phase] - 1;
  const at = Math.min(Math.floor(share * steps), steps - 1);
  element.style.setProperty("--a", `var(--${phase}-${at})`);
  element.style.setProperty("--b", `var(--${phase}-${at + 1})`);
  element.style.setProperty("--at", `${Math.round(100 * (share * steps - at))}%`);
}

// Stage → how far it is from its phase's first to its phase's last, 0 to 1.
function shadesOf(model) {
  const names = unique(model.rows.flatMap((row) => row.stages.map((stage) => `${stage.phase} ${stage.stage}`)));
  return new Map(
    PHASES.flatMap((phase) => {
      const own = names.filter((name) => name.startsWith(`${phase} `));
      return own.map((name, at) => [name, at / Math.max(own.length - 1, 1)]);
    }),
  );
}

// Round times at even distances, from 0.
function evenTimes(to, most) {
  const step = TIMES.find((one) => to / one <= Math.max(most, 2)) ?? to / 2;
  return Array.from({ length: Math.floor(to / step) + 1 }, (_, at) => Number((at * step).toPrecision(6)));
}
