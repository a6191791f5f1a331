// Accuracy against cost, and against budget.

const HEIGHT = 420;
const framed = (width, margin) => ({ left: 52, right: width - margin, top: 34, bottom: HEIGHT - 48 });
const spreadWords = (sd) => (sd === undefined ? "" : ` ± ${figure(sd)}`);
const spreadOf = (mark) => (mark.low === undefined ? undefined : mark.y - mark.low);

function valueAxis(values, frame) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = 0.07 * (high - low || Math.abs(high) || 1);
  const bottom = low >= 0 ? Math.max(low - room, 0) : low - room;
  const scale = linear(bottom, high + room, frame.bottom, frame.top);
  return [scale, roundTicks(bottom, high + room).map((value) => [scale(value), figure(value)])];
}

// A row this many times cheaper than any of the backbone stands at the edge, so as not to press those together.
const FAR_CHEAPER = 4;

function costAxis(marks, frame) {
  const own = marks.filter((mark) => mark.kind !== "reference" && mark.x > 0).map((mark) => mark.x);
  const all = marks.map((mark) => mark.x).filter((x) => x > 0);
  const edge = own.length ? Math.min(...own) : Math.min(...all, 1);
  const low = Math.min(edge, ...all.filter((x) => x * FAR_CHEAPER >= edge)) / 1.6;
  const high = Math.max(...all, low * 2) * 1.6;
  const x = logarithmic(low, high, frame.left, frame.right);
  const ticks = timeTicks(low, high, (frame.right - frame.left) / 80).map((one) => [x(one), timeWords(one)]);
  return [(mark) => x(Math.max(mark.x, low)), ticks, (mark) => mark.x < low];
}

function costChart(section, width) {
  const { table } = section;
  const metric = leadMetric(table);
  const chart = section.model.cost.find((one) => one.metric === metric);
  if (!chart) return null;
  const rows = new Set(rowsShown(table).map((row) => row.id));
  const shown = chart.marks.filter((mark) => rows.has(mark.id));
  const marks = shown.filter((mark) => !section.off.has(groupOfMark(mark))).sort((a, b) => a.x - b.x || b.y - a.y);
  const onFront = (mark) => chart.front.includes(mark.id);
  const front = chart.front.map((id) => marks.find((mark) => mark.id === id)).filter(Boolean);
  const described = {
    legend: [...groupsOf(shown), { key: "front", name: "Pareto front", line: "front" }],
    summary: costSummary(chart, marks, front),
    unmasked: true,
    head: ["Row", metric, "sd", "Total", "Front"],
    rows: marks.map((mark) => [
      mark.label,
      figure(mark.y),
      figure(spreadOf(mark)),
      duration(mark.x),
      onFront(mark) ? "yes" : "",
    ]),
  };
  if (!marks.length) return { content: [], ...described };
  const frame = framed(width, 16);
  const [x, xTicks, cheaper] = costAxis(marks, frame);
  const [y, yTicks] = valueAxis(marks.flatMap((mark) => [mark.low ?? mark.y, mark.high ?? mark.y]), frame);
  const picture = plane(width, HEIGHT, frame, xTicks, yTicks, "total cost per run, log scale", metricTitle(metric));
  const corners = section.off.has("front") ? [] : frontCorners(front.map((mark) => [x(mark), y(mark.y)]), frame.right);
  if (corners.length) picture.append(svg("path", { class: "front", d: `M${corners.join("L")}` }));
  const drawn = marks.map((mark) => {
    const look = lookOf(mark.method, mark.kind, !mark.rival);
    const [px, py] = [x(mark), y(mark.y)];
    const ends = mark.low === undefined ? [] : [y(mark.low), y(mark.high)];
    const lines = [
      mark.label,
      `${metric} ${figure(mark.y)}${spreadWords(spreadOf(mark))}, ${plural(mark.seeds, "seed")}`,
      `${duration(mark.x)} per run`,
      ...(onFront(mark) ? ["on the Pareto front"] : []),
    ];
    const text = cheaper(mark) ? `${mark.label} (${duration(mark.x)})` : mark.label;
    return {
      element: markAt(cheaper(mark) ? { ...look, shape: CHEAPER } : look, px, py, ...ends),
      lines,
      act: () => openRow(table, mark.id),
      at: { x: px, y: py, text, important: onFront(mark) },
      bar: ends.length ? [boxOf([px, ends[0]], [px, ends[1]])] : [],
    };
  });
  picture.append(...drawn.map((one) => one.element));
  const sides = corners.slice(1).map((corner, at) => boxOf(corner, corners[at]));
  placeLabels(picture, drawn.map((one) => one.at), [...sides, ...drawn.flatMap((one) => one.bar)], frame);
  answering(picture, drawn);
  return { content: [picture], ...described };
}

const boxOf = ([a, b], [c, d]) => [Math.min(a, c), Math.min(b, d), Math.max(a, c), Math.max(b, d)];

// The corners of the steps a front makes, on to the right end of the axis.
function frontCorners(points, right) {
  return points.flatMap(([px, py], at) => [[px, py], [points[at + 1]?.[0] ?? right, py]]);
}

function costSummary(chart, marks, front) {
  const best = [...marks].sort((a, b) => b.y - a.y)[0];
  if (!best) return "No row to draw.";
  const names = front.map((mark) => mark.label).join("; ");
  const parts = [
    `${chart.metric} against the total cost of a run.`,
    `Highest: ${best.label}, ${figure(best.y)} for ${duration(best.x)}.`,
    `On the Pareto front, cheapest first: ${names || "none of those shown"}.`,
    "Bars: ± one standard deviation over seeds.",
    "Hollow: references, plugins and rows timed on other hardware, which have no place on the front.",
  ];
  if (chart.left_out) parts.push(`Not drawn for want of a total: ${plural(chart.left_out, "row")}.`);
  return parts.join(" ");
}

const groupOfMark = (mark) => (mark.kind === "pruned" ? mark.method : `all ${mark.kind}`);

// Legend entries of what is in a picture: methods in the order of their colours, then the kinds of other rows.
function groupsOf(marks) {
  const found = new Map();
  for (const mark of marks) {
    const pruned = mark.kind === "pruned";
    if (found.has(groupOfMark(mark)) && !mark.rival) continue; // hollow only where all its marks are
    found.set(groupOfMark(mark), {
      key: groupOfMark(mark),
      name: pruned ? mark.method : KINDS[mark.kind],
      place: pruned ? placeOf(mark.method) : Infinity,
      look: lookOf(mark.method, mark.kind, !mark.rival),
    });
  }
  return [...found.values()].sort((a, b) => (a.place < b.place ? -1 : Number(a.place > b.place)));
}

const FAMILY = ["dataset", "fingerprint", "split", "backbone", "llm"];
const sameFamily = (one, other) => FAMILY.every((name) => one[name] === other[name]);

function budgetModel(table) {
  return board.budgets.find((one) => one.metric === leadMetric(table) && sameFamily(one, table));
}

// Row id → [table, row], in all tables that differ from this one in budget only.
function familyOf(table) {
  const tables = board.tables.filter((other) => sameFamily(other, table));
  return new Map(tables.flatMap((one) => one.rows.map((row) => [row.id, [one, row]])));
}

function budgetChart(section, width) {
  const chart = budgetModel(section.table);
  if (!chart) return null;
  const { metric } = chart;
  const homes = familyOf(section.table);
  const visible = ({ id }) => homes.has(id) && rowFits(...homes.get(id));
  const all = chart.series
    .map((one) => ({ ...one, points: one.points.map((point, at) => ({ ...point, id: one.ids[at] })).filter(visible) }))
    .filter((one) => one.points.length);
  const levels = chart.levels.filter(visible);
  const series = all.filter((one) => !section.off.has(one.label));
  const flat = levels.filter((one) => !section.off.has(`level ${one.label}`));
  const points = series.flatMap((one) => one.points);
  const described = {
    legend: [
      ...all.map((one) => ({ key: one.label, name: one.label, look: lookOf(one.method) })),
      ...levels.map((one) => ({ key: `level ${one.label}`, name: one.label, line: "levelline" })),
    ],
    summary: `${metric} by number of samples kept. Bars: ± one standard deviation over seeds. Dashed: rows that no
      budget changes.`,
    unmasked: true,
    head: ["Row", "Budget", "Share", metric, "sd", "Seeds"],
    rows: [
      ...series.flatMap((one) => one.points.map((point) => pointCells(one, point))),
      ...flat.map((one) => [one.label, DASH, DASH, figure(one.value), DASH, DASH]),
    ],
  };
  if (!points.length) return { content: [], ...described };
  const frame = framed(width, Math.min(150, width * 0.25));
  const budgets = unique(points.map((point) => point.budget)).sort((a, b) => a - b);
  const x = logarithmic(budgets[0] / 1.2, budgets.at(-1) * 1.2, frame.left, frame.right);
  const ends = (point) => [point.mean - (point.sd ?? 0), point.mean + (point.sd ?? 0)];
  const [y, yTicks] = valueAxis([...points.flatMap(ends), ...flat.map((one) => one.value)], frame);
  const apart = ([at], index, ticks) => !index || at - ticks[index - 1][0] > 44;
  const xTicks = budgets.map((budget) => [x(budget), count(budget)]).filter(apart);
  const picture = plane(width, HEIGHT, frame, xTicks, yTicks, "samples kept, log scale", metricTitle(metric));
  for (const one of flat) picture.append(line("levelline", frame.left, y(one.value), frame.right, y(one.value)));
  for (const one of series) {
    const path = one.points.map((point) => `${x(point.budget)},${y(point.mean)}`).join("L");
    picture.append(svg("path", { class: `series ${lookOf(one.method).colour}`, d: `M${path}` }));
  }
  const drawn = series.flatMap((one) =>
    one.points.map((point) => ({
      element: markAt(
        lookOf(one.method),
        x(point.budget),
        y(point.mean),
        ...(point.sd === undefined ? [] : ends(point).map((value) => y(value))),
      ),
      lines: [
        one.label,
        `${plural(point.budget, "sample")}, ${percent(point.share)}`,
        `${metric} ${figure(point.mean)}${spreadWords(point.sd)}, ${plural(point.seeds, "seed")}`,
      ],
      act: () => openRow(homes.get(point.id)[0], point.id),
    })),
  );
  picture.append(...drawn.map((one) => one.element));
  nameEnds(picture, width - frame.right - 8, frame.right + 8, [
    ...flat.map((one) => ({ y: y(one.value), text: one.label, name: "name" })),
    ...series.map((one) => ({ y: y(one.points.at(-1).mean), text: one.label, name: "name strong" })),
  ]);
  answering(picture, drawn);
  return { content: [picture], ...described };
}

function pointCells(one, point) {
  const { budget, share, mean, sd, seeds } = point;
  return [one.label, count(budget), percent(share), figure(mean), figure(sd), String(seeds)];
}

// Names in the right margin, each at the height of its line or as near as there is room.
function nameEnds(picture, room, x, ends) {
  let last = -Infinity;
  for (const end of ends.sort((a, b) => a.y - b.y)) {
    last = Math.max(end.y + 4, last + 13);
    picture.append(label(shortened(end.text, room / LETTER), x, last, "start", end.name));
  }
}
