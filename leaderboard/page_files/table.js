// One section per table: heading, facts, the rows, and below them the charts.

const sections = board.tables.map((table) => ({ table, model: table.charts, rows: new Map(), off: new Set() }));
const detailsId = (table, row) => `details-${table.key}-${row.id}`;

function makeSection(section) {
  const { table } = section;
  const id = `table-${table.key}`;
  section.head = h("thead", {});
  section.body = h("tbody", {});
  section.note = h("p", { class: "note", hidden: true });
  const names = [table.dataset, table.backbone, table.llm].filter(Boolean).flatMap((name) => [
    h("span", { class: "dot" }, " · "),
    isolated(name),
  ]);
  const share = h("small", {}, ` ${percent(table.share)}`);
  section.scroll = h(
    "div",
    { class: "scroll", tabindex: "0", role: "group", "aria-labelledby": id },
    h("table", { "aria-labelledby": id }, section.head, section.body),
  );
  section.charts = h("div", { class: "charts" });
  section.element = h(
    "section",
    { class: "board", "aria-labelledby": id, id: `at-${table.key}` },
    h("h2", { id }, ...names.slice(1), h("span", { class: "budget" }, ` ${plural(table.budget, "sample")}`, share)),
    h("p", { class: "about" }, ...aboutTable(table)),
    section.scroll,
    section.note,
    section.charts,
  );
  drawHead(section);
  return section.element;
}

function aboutTable(table) {
  const words = [`${count(table.users)} test users · ${table.split} split · data `, h("code", {}, table.fingerprint)];
  const labels = new Map(table.rows.map((row) => [row.id, row]));
  const by = new Map();
  for (const [metric, id] of Object.entries(table.best)) by.set(id, [...(by.get(id) ?? []), metric]);
  if (!by.size) return words;
  const named = [...by].flatMap(([id, metrics], at) => {
    const row = labels.get(id);
    const own = labelParts(row.backbone_label)[1] ? isolated(` on ${row.backbone_label}`) : null;
    return [at ? "; " : "", h("b", {}, isolated(row.label)), own, ` (${metrics.join(", ")})`];
  });
  return [...words, " · best method with every seed: ", ...named];
}

function drawHead(section) {
  section.columns = columnsOf(section.table);
  const groups = [];
  for (const column of section.columns) {
    const name = groupOf(column) || (column.picture ? groups.at(-1).name : "");
    if (groups.length && groups.at(-1).name === name) groups.at(-1).span += 1;
    else groups.push({ name, span: 1 });
  }
  const over = groups.map(({ name, span }) =>
    name ? h("th", { colspan: span, scope: "colgroup" }, name) : h("td", { colspan: span }),
  );
  section.buttons = new Map();
  const heads = section.columns.map((column) => {
    if (column.picture) return h("td", { class: "picture", "aria-hidden": "true" }, column.label);
    const sort = button("sort", { title: column.title, "data-key": `sort ${column.key}` }, () => sortBy(column), column.label);
    const th = h("th", { scope: "col", class: classOf(column) }, sort);
    section.buttons.set(column.key, th);
    return th;
  });
  section.head.replaceChildren(h("tr", { class: "groups" }, ...over), h("tr", {}, ...heads));
  section.rows.clear();
}

function classOf(column) {
  const names = { words: column.words, number: !column.words, method: column.key === "method", lead: column.lead };
  return Object.entries({ ...names, strong: column.strong }).flatMap(([name, on]) => (on ? [name] : [])).join(" ");
}

function sortBy(column) {
  const usual = column.down ? "descending" : "ascending";
  const other = column.down ? "ascending" : "descending";
  const now = state.sort === column.key ? orderOf(column) : null;
  change({ sort: column.key, order: now === usual ? other : usual });
}

const orderOf = (column) => state.order || (column.down ? "descending" : "ascending");

function rowElement(section, row) {
  let made = section.rows.get(row);
  if (!made) {
    const { table } = section;
    const cells = section.columns.map((column) => {
      if (column.picture) return h("td", { class: "picture", "aria-hidden": "true" }, ...column.cell(row, table));
      const name = column.key === "method" ? "th" : "td";
      return h(name, { class: classOf(column), scope: name === "th" ? "row" : null }, ...column.cell(row, table));
    });
    const baseline = row.method === "random" && row.kind === "pruned";
    made = h("tr", { class: `row ${row.kind}${baseline ? " random" : ""}` }, ...cells);
    section.rows.set(row, made);
  }
  const open = isOpen(section.table, row);
  made.classList.toggle("opened", open);
  made.querySelector("button.open").setAttribute("aria-expanded", String(open));
  return made;
}

function sortColumn(section) {
  return section.columns.find((one) => one.value && (one.key === state.sort || one.metric === state.sort));
}

function sortedRows(section) {
  const column = sortColumn(section);
  const rows = rowsShown(section.table);
  return column ? inOrder(rows, column.value, orderOf(column) === "descending") : rows;
}

function drawRows(section) {
  const { table } = section;
  const column = sortColumn(section);
  for (const [key, th] of section.buttons) {
    if (key === column?.key) th.setAttribute("aria-sort", orderOf(column));
    else th.removeAttribute("aria-sort");
  }
  const rows = sortedRows(section);
  const wanted = rows.flatMap((row) => {
    const made = rowElement(section, row);
    return isOpen(table, row) ? [made, detailsRow(section, row)] : [made];
  });
  // Moving an element takes the focus from what is in it: touch only what is out of place.
  const keep = new Set(wanted);
  for (const child of [...section.body.children]) if (!keep.has(child)) child.remove();
  wanted.forEach((element, at) => {
    if (section.body.children[at] !== element) section.body.insertBefore(element, section.body.children[at] ?? null);
  });
  section.element.hidden = rows.length === 0;
  const plain = state.protocol !== "unmasked" && !section.columns.some((one) => one.key === "random");
  section.note.hidden = !plain;
  section.note.textContent = plain ? "Differences, ranks and the paper's figures are of the unmasked protocol." : "";
  return rows.length;
}

function drawTables() {
  const shown = sections.map(drawRows);
  const rows = shown.reduce((sum, number) => sum + number, 0);
  const all = board.tables.reduce((sum, table) => sum + table.rows.length, 0);
  const tables = shown.filter(Boolean).length;
  const words = all ? `${count(rows)} of ${plural(all, "row")} in ${plural(tables, "table")}` : "No runs yet.";
  byId("status").textContent = rows || !all ? words : "No row fits these filters.";
}
