// What all charts are drawn with: scales, axes, marks that speak when pointed at or reached by keyboard.

// As in the pictures beside this page: a method's place in the board's list is its colour, past the last colour its
// shape changes. Hollow is what may not stand on the front.
const COLOURS = board.colours;
const SHAPES = [
  (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`,
  (r) => `M${-0.9 * r},${-0.9 * r}h${1.8 * r}v${1.8 * r}h${-1.8 * r}z`,
  (r) => `M0,${-1.3 * r}L${1.3 * r},0L0,${1.3 * r}L${-1.3 * r},0z`,
  (r) => `M0,${-1.2 * r}L${1.15 * r},${0.85 * r}H${-1.15 * r}z`,
  (r) => `M0,${1.2 * r}L${1.15 * r},${-0.85 * r}H${-1.15 * r}z`,
];
const [CIRCLE, , DIAMOND] = SHAPES;
const CHEAPER = (r) => `M${-1.2 * r},0L${0.85 * r},${-1.15 * r}V${1.15 * r}z`;
const placeOf = (method) => board.methods.indexOf(method);

function lookOf(method, kind = "pruned", hollow = kind === "reference") {
  const place = kind === "pruned" ? placeOf(method) : -1;
  const colour = place < 0 ? "other" : `c${place % COLOURS}`;
  const own = place < 0 ? CIRCLE : SHAPES[Math.floor(place / COLOURS) % SHAPES.length];
  return { colour: hollow ? `${colour} hollow` : colour, shape: kind === "reference" ? DIAMOND : own };
}

function marker({ colour, shape }, x, y, r = 5) {
  return svg("path", { class: `marker ${colour}`, d: shape(r), transform: `translate(${x},${y})` });
}

// A mark with the room around it that answers, and a bar from `low` to `high`, where it has one.
function markAt(look, x, y, low, high) {
  const bar = low === undefined ? null : line(`whisker ${look.colour}`, x, low, x, high);
  return svg("g", {}, svg("circle", { class: "target", cx: x, cy: y, r: 12 }), bar, marker(look, x, y));
}

function canvas(width, height, attributes) {
  return svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, ...attributes });
}

const line = (name, x1, y1, x2, y2) => svg("line", { class: name, x1, y1, x2, y2 });

function label(text, x, y, anchor = "start", name = "") {
  return svg("text", { x, y, "text-anchor": anchor, class: name }, text);
}

function linear(from, to, start, end) {
  return (value) => start + ((value - from) / (to - from || 1)) * (end - start);
}

function logarithmic(from, to, start, end) {
  const scale = linear(Math.log(from), Math.log(to), start, end);
  return (value) => scale(Math.log(value));
}

// Round values, at most `most` of them, that cover from … to.
function roundTicks(from, to, most = 6) {
  const rough = (to - from || Math.abs(to) || 1) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough);
  const ticks = [];
  for (let at = Math.ceil(from / step - 1e-9); at * step <= to + step * 1e-9; at += 1) ticks.push(at * step);
  return ticks;
}

const TIMES = [
  ...[0.01, 0.02, 0.05, 0.1, 0.2, 0.5],
  ...[1, 2, 5, 10, 20, 30],
  ...[1, 2, 5, 10, 20, 30].map((minutes) => 60 * minutes),
  ...[1, 2, 5, 10, 24, 48, 120, 240, 720].map((hours) => 3600 * hours),
];

// Times to mark a logarithmic axis at.
function timeTicks(from, to, most) {
  let ticks = TIMES.filter((one) => one >= from && one <= to);
  while (ticks.length > Math.max(most, 2)) ticks = ticks.filter((_, at) => at % 2 === 0); // every second one
  return ticks;
}

function timeWords(seconds) {
  if (seconds < 60) return `${seconds} s`;
  return seconds < 3600 ? `${seconds / 60} min` : `${seconds / 3600} h`;
}

// An SVG with a frame's axes; ticks are [position, text].
function plane(width, height, frame, xTicks, yTicks, xTitle, yTitle) {
  const { left, right, top, bottom } = frame;
  const picture = canvas(width, height, { role: "group" });
  for (const [y, text] of yTicks) {
    picture.append(line("gridline", left, y, right, y), label(text, left - 8, y + 4, "end", "tick"));
  }
  for (const [x, text] of xTicks) {
    picture.append(line("tickline", x, bottom, x, bottom + 5), label(text, x, bottom + 19, "middle", "tick"));
  }
  picture.append(
    line("axis", left, bottom, right, bottom),
    label(xTitle, right, bottom + 38, "end", "title"),
    label(yTitle, left - 8, top - 12, "start", "title"),
  );
  return picture;
}

const LETTER = 6.3; // pixels, about

// At most so many letters, the middle left out: what tells labels apart stands at their ends.
function shortened(text, letters) {
  const half = Math.max(Math.floor((letters - 1) / 2), 2);
  return text.length <= letters ? text : `${text.slice(0, half)}…${text.slice(-half)}`;
}

// Labels beside marks, where there is room: on no mark, and rather on no bar or front.
// Boxes are [left, top, right, bottom].
function placeLabels(picture, marks, obstacles, frame) {
  const taken = marks.map(({ x, y }) => [x - 7, y - 7, x + 7, y + 7]);
  const { left, right, top, bottom } = frame;
  const inside = (box) => box[0] >= left && box[2] <= right + 12 && box[1] >= top - 8 && box[3] <= bottom;
  const apart = (box) => (one) => box[2] < one[0] || box[0] > one[2] || box[3] < one[1] || box[1] > one[3];
  for (const { x, y, text, important } of [...marks].sort((a, b) => Number(b.important) - Number(a.important))) {
    const wide = text.length * LETTER;
    const places = [
      [x + 9, y + 4, "start", [x + 8, y - 6, x + 9 + wide, y + 6]],
      [x - 9, y + 4, "end", [x - 9 - wide, y - 6, x - 8, y + 6]],
      [x, y - 10, "middle", [x - wide / 2, y - 20, x + wide / 2, y - 8]],
      [x, y + 18, "middle", [x - wide / 2, y + 8, x + wide / 2, y + 20]],
    ];
    const free = places.filter(([, , , box]) => inside(box) && taken.every(apart(box)));
    const found = free.find(([, , , box]) => obstacles.every(apart(box))) ?? free[0];
    if (!found) continue;
    taken.push(found[3]);
    picture.append(label(text, found[0], found[1], found[2], important ? "name strong" : "name"));
  }
}

// Elements of a picture that answer: pointing or focus shows `lines`, click or Enter calls `act`. One of them can be
// tabbed to, arrows lead to the others: left and right by one, up and down by `stride`.
function answering(picture, marks, stride = 1) {
  marks.forEach(({ element, lines, act }, at) => {
    element.setAttribute("tabindex", at ? "-1" : "0");
    element.setAttribute("role", "button");
    element.setAttribute("aria-label", lines.join(", "));
    element.dataset.key = `mark ${lines.join(", ")}`;
    element.classList.add("answers");
    const show = () => showTip(element, lines);
    element.addEventListener("pointerenter", show);
    element.addEventListener("focus", () => {
      for (const mark of marks) mark.element.setAttribute("tabindex", mark.element === element ? "0" : "-1");
      show();
    });
    element.addEventListener("pointerleave", hideTip);
    element.addEventListener("blur", hideTip);
    element.addEventListener("click", act);
    element.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: stride, ArrowUp: -stride }[event.key];
      if (event.key === "Escape") hideTip();
      else if (step && marks[at + step]) marks[at + step].element.focus();
      else if (event.key === "Enter" || event.key === " ") act();
      else if (!step) return;
      event.preventDefault();
    });
  });
}

function showTip(element, lines) {
  const tip = byId("tip");
  tip.replaceChildren(...lines.map((line, at) => h(at ? "div" : "b", { dir: "auto" }, line)));
  tip.hidden = false;
  const box = element.getBoundingClientRect();
  const own = tip.getBoundingClientRect();
  const left = Math.min(Math.max(box.left + box.width / 2 - own.width / 2, 6), innerWidth - own.width - 6);
  const above = box.top - own.height - 8;
  tip.style.left = `${left}px`;
  tip.style.top = `${above > 4 ? above : Math.min(box.bottom + 8, innerHeight - own.height - 4)}px`;
}

function hideTip() {
  byId("tip").hidden = true;
}
