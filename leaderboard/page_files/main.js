// Starts the page, and redraws what a change concerns.

readAddress();
makeTheme();
makeFacts();
makeFilters();
makeLegend();
byId("tables").append(...sections.map(makeSection));
showFilters();
drawTables();
showOpen();

watchers.push((changes) => {
  drawAll("metric" in changes || "protocol" in changes);
  for (const section of sections) if (concerns(section, changes)) redraw(section);
});

addEventListener("hashchange", () => {
  if (location.hash && !location.hash.includes("=")) return; // a place on the page, such as that of the skip link
  readAddress();
  drawAll();
  sections.forEach(redraw);
  showOpen();
});

narrow.addEventListener("change", () => drawAll());

// Tables and what controls show, with their heads where columns may be others.
function drawAll(heads = true) {
  keepFocus(() => {
    if (heads) sections.forEach(drawHead);
    showFilters();
    drawTables();
  });
}

// Whether a change concerns a section's chart: only stages stand in the table's order, and none shows what is open.
function concerns(section, changes) {
  const names = Object.keys(changes).filter((name) => name !== "open");
  return names.some((name) => section.kind === "stages" || !["sort", "order"].includes(name));
}

// Charts are drawn when they come near the screen; a large board has many.
const near = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      const section = sections.find((one) => one.charts === target);
      section.near = isIntersecting;
      if (section.stale) redraw(section);
    }
  },
  { rootMargin: "800px" },
);

function redraw(section) {
  section.stale = !section.near;
  if (section.near) drawCharts(section);
}

const resized = new ResizeObserver(
  later(80, () => {
    for (const section of sections) {
      if (section.width === section.charts.clientWidth) continue;
      section.width = section.charts.clientWidth;
      redraw(section);
    }
  }),
);

for (const section of sections) {
  section.stale = true;
  section.width = section.charts.clientWidth;
  near.observe(section.charts);
  resized.observe(section.charts);
}

addEventListener("beforeprint", () => sections.filter((section) => section.stale).forEach(drawCharts));

// A link to a row leads to that row.
function showOpen() {
  document.querySelector("tr.opened")?.scrollIntoView({ block: "start" });
}
