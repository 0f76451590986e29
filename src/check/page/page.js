"use strict";
// Draws what is in view, and no more: rows by their place, bars by binary search in time.
const data = JSON.parse(document.getElementById("data").textContent);
const canvas = document.getElementById("canvas"), pen = canvas.getContext("2d");
const tip = document.getElementById("tip"), search = document.getElementById("search");
const ROW = 22, LEFT = 150, TOP = 62, MAP = 30;
const style = {};
const names = ["back", "panel", "text", "soft", "line", "band", "read", "write", "other", "failed", "unknown", "bad",
  "fault", "event", "progress", "match", "leader", "follower", "candidate", "down", "ink", "ink2"];
function colours() {
  const css = getComputedStyle(document.documentElement);
  for (const name of names) style[name] = css.getPropertyValue("--" + name).trim();
}

// Rows, top to bottom: {name, lanes: [[item]], kind}. An item is {a, b, ...} with times a <= b.
const rows = [], bad = new Set(), items = new Map();
for (const violation of data.violations) violation.operations.forEach(place => bad.add(place));
const badWatches = new Set(data.violations.flatMap(violation => violation.watches));

function lanes(list, gap) {
  list.sort((one, other) => one.a - other.a);
  const ends = [], found = [];
  for (const item of list) {
    let level = ends.findIndex(end => end <= item.a);
    if (level < 0) { level = ends.length; found.push([]); }
    ends[level] = item.b + gap;
    item.level = level;
    found[level].push(item);
  }
  return found;
}
function row(name, kind, list) {
  const found = lanes(list, 0);
  rows.push({ name, kind, lanes: found.length ? found : [[]] });
}
const end = data.to;
if (data.faults.length)
  row("faults", "fault", data.faults.map(([name, a, b]) => ({ kind: "fault", name, a, b: b ?? end, open: b === null })));
for (const [member, states] of data.nodes) {
  const list = states.map(([a, state, term], place) =>
    ({ kind: "node", member, state, term, a, b: states[place + 1] ? states[place + 1][0] : end }));
  rows.push({ name: member, kind: "node", lanes: [list] });
}
for (const [process, list] of data.processes) {
  const all = list.map(([place, a, b, kind, outcome, label, keys, text]) => {
    const item = { kind: "op", process, place, a, b: b ?? a, open: outcome === 2, read: kind === 0, outcome, label, keys, text };
    item.bad = bad.has(place);
    items.set(place, item);
    return item;
  });
  row("process " + process, "op", all);
}
// Watches of one process and range share a row: mostly one goes on where another was cut off.
const groups = new Map();
for (const [place, name, a, b, keys, messages] of data.watches) {
  const watch = { watch: place, a, b, keys, bad: badWatches.has(place) };
  watch.messages = messages.map(([at, events, keys, text, label, revision]) =>
    ({ kind: "message", watch: place, name: `watcher ${place}, ${name}`, a: at, b: at, events, keys, text, label, revision }));
  groups.set(name, [...(groups.get(name) || []), watch]);
}
for (const [name, list] of groups) {
  const segments = lanes(list, 0);
  const order = (one, other) => one.a - other.a;
  const found = segments.map(lane => lane.flatMap(watch => watch.messages).sort(order));
  found.forEach((lane, level) => lane.forEach(item => { item.level = level; }));
  rows.push({ name, kind: "watch", segments, bad: list.some(watch => watch.bad), lanes: found });
}
let height = TOP;
for (const [place, line] of rows.entries()) { line.odd = place % 2; line.y = height; line.height = ROW * line.lanes.length; height += line.height; }
height += 8;

// The view: times from..to, and how far it is scrolled down.
let from = data.from, to = data.to, down = 0, width = 0, shown = 0, hover = null, pinned = null, wanted = "", matches = [], match = -1;
const x = at => LEFT + (at - from) / (to - from) * (width - LEFT);
const at = x => from + (x - LEFT) / (width - LEFT) * (to - from);
function view(a, b) {
  const least = 100, most = (data.to - data.from) * 1.2;
  const size = Math.min(Math.max(b - a, least), most), middle = (a + b) / 2;
  from = middle - size / 2; to = middle + size / 2;
  const slack = size * 0.04;
  if (from < data.from - slack) { to += data.from - slack - from; from = data.from - slack; }
  if (to > data.to + slack) { from -= to - data.to - slack; to = data.to + slack; }
  draw();
}
function fit() { const edge = (data.to - data.from) * 0.01; view(data.from - edge, data.to + edge); }
function zoom(by, x) { const middle = x === undefined ? (from + to) / 2 : at(x); view(middle - (middle - from) * by, middle + (to - middle) * by); }
function pan(part) { const step = (to - from) * part; view(from + step, to + step); }
function scroll(by) { down = Math.max(0, Math.min(down + by, height - shown)); draw(); }
function time(ns, step) {
  const [size, unit] = step >= 1e8 || ns >= 1e10 && step >= 1e5 ? [1e9, "s"] : step >= 1e5 ? [1e6, "ms"] : step >= 100 ? [1e3, "µs"] : [1, "ns"];
  const digits = Math.max(0, Math.min(9, Math.ceil(Math.log10(size / step))));
  return (ns / size).toFixed(digits) + " " + unit;
}
const moment = ns => ns >= 1e9 ? (ns / 1e9).toFixed(6) + " s" : ns >= 1e6 ? (ns / 1e6).toFixed(3) + " ms" : ns + " ns";

let pending = false;
function draw() {
  if (pending) return;
  pending = true;
  requestAnimationFrame(() => { pending = false; paint(); });
}
function first(list, time) {
  let low = 0, high = list.length;
  while (low < high) { const middle = (low + high) >> 1; if (list[middle].b < time) low = middle + 1; else high = middle; }
  return low;
}
function bar(left, right, y, colour, high) {
  pen.fillStyle = colour;
  if (right - left < 5) return pen.fillRect(left, y, right - left, high);
  pen.beginPath(); pen.roundRect(left, y, right - left, high, 3); pen.fill();
}
function label(text, left, right, y, colour) {
  const room = Math.min(right, width) - Math.max(left, LEFT) - 8;
  if (room < 14) return;
  let shown = text;
  const most = Math.floor(room / 6.2);
  if (shown.length > most) { if (most < 3) return; shown = shown.slice(0, most - 1) + "…"; }
  pen.fillStyle = colour;
  pen.fillText(shown, Math.max(left, LEFT) + 4, y);
}
function colour(item) {
  if (item.kind === "node") return style[item.state] || style.other;
  if (item.outcome === 1) return style.failed;
  if (item.outcome === 2) return style.unknown;
  return item.read ? style.read : style.write;
}
const dim = item => wanted && item.kind !== "fault" && item.kind !== "node" && !(item.keys || "").includes(wanted);

function paint() {
  const scale = window.devicePixelRatio || 1;
  width = canvas.clientWidth;
  shown = Math.min(height, Math.max(220, window.innerHeight - 150));
  down = Math.max(0, Math.min(down, height - shown));
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(shown * scale)) {
    canvas.width = Math.round(width * scale); canvas.height = Math.round(shown * scale);
    canvas.style.height = shown + "px";
  }
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.font = "11px system-ui, sans-serif"; pen.textBaseline = "middle";
  pen.fillStyle = style.back; pen.fillRect(0, 0, width, shown);
  pen.save();
  pen.beginPath(); pen.rect(0, TOP, width, shown - TOP); pen.clip();
  pen.translate(0, -down);
  const visible = rows.filter(line => line.y + line.height > down + TOP && line.y < down + shown);
  visible.forEach(line => {
    if (line.odd) { pen.fillStyle = style.band; pen.fillRect(0, line.y, width, line.height); }
  });
  // Faults shade everything below them.
  pen.globalAlpha = 0.07; pen.fillStyle = style.fault;
  for (const [, a, b] of data.faults) {
    const left = Math.max(LEFT, x(a)), right = Math.min(width, x(b ?? end));
    if (right > left) pen.fillRect(left, TOP, Math.max(1, right - left), height);
  }
  pen.globalAlpha = 1;
  grid(down + TOP, down + shown);
  pen.save(); pen.beginPath(); pen.rect(LEFT, TOP, width - LEFT, height); pen.clip();
  for (const line of visible) lane(line);
  pen.restore();
  for (const line of visible) {
    pen.fillStyle = line.bad ? style.bad : style.soft;
    pen.fillText(line.name.length > 22 ? line.name.slice(0, 21) + "…" : line.name, 10, line.y + ROW / 2 + 1);
  }
  pen.fillStyle = style.line; pen.fillRect(LEFT - 1, TOP, 1, height);
  pen.restore();
  head();
  if (height > shown) {
    const size = shown - TOP, part = size / (height - TOP);
    pen.fillStyle = style.soft; pen.globalAlpha = 0.4;
    pen.fillRect(width - 6, TOP + down * part, 4, size * part); pen.globalAlpha = 1;
  }
}
function steps() {
  const room = Math.max(2, Math.floor((width - LEFT) / 120)), rough = (to - from) / room, ten = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map(factor => factor * ten).find(step => step >= rough);
}
function grid(top, bottom) {
  const step = steps();
  pen.fillStyle = style.line;
  for (let tick = Math.ceil(from / step) * step; tick <= to; tick += step) if (x(tick) >= LEFT) pen.fillRect(x(tick), top, 1, bottom - top);
}
function lane(line) {
  (line.segments || []).forEach((list, level) => {
    const y = line.y + ROW * level + ROW / 2;
    for (let place = Math.max(0, first(list, from) - 1); place < list.length && list[place].a <= to; place++) {
      const watch = list[place];
      pen.strokeStyle = watch.bad ? style.bad : style.progress; pen.lineWidth = watch.bad ? 2 : 1; pen.globalAlpha = dim(watch) ? 0.25 : 1;
      pen.beginPath(); pen.moveTo(x(watch.a), y); pen.lineTo(Math.max(x(watch.b), x(watch.a) + 3), y); pen.stroke(); pen.globalAlpha = 1;
    }
  });
  line.lanes.forEach((list, level) => {
    const y = line.y + ROW * level + 3, high = ROW - 6;
    let last = -10;
    for (let place = Math.max(0, first(list, from) - 1); place < list.length && list[place].a <= to; place++) {
      const item = list[place], left = x(item.a), right = Math.max(x(item.b), left + 2);
      // What falls on the same pixel is not drawn again, unless it matters.
      const matters = item.bad || item === hover || item === pinned || matches[match] === item;
      if (right < last + 0.7 && !matters) continue;
      last = Math.max(last, right);
      pen.globalAlpha = dim(item) ? 0.15 : 1;
      if (item.kind === "message") message(item, left, y + high / 2);
      else if (item.kind === "fault") {
        pen.globalAlpha *= 0.85; bar(left, right, y, style.fault, high); pen.globalAlpha = 1;
        label(item.name, left, right, y + high / 2 + 1, style.ink);
      } else {
        if (item.open) tail(item, right, y + high / 2);
        bar(left, right, y, colour(item), high);
        const text = item.kind === "node" ? `${item.state}${item.term ? " · term " + item.term : ""}` : item.label;
        label(text, left, right, y + high / 2 + 1, item.kind === "node" && item.state === "follower" || item.outcome === 1 ? style.ink2 : style.ink);
      }
      if (matters || (wanted && !dim(item) && item.kind === "op" && right - left > 8)) {
        pen.globalAlpha = 1; pen.lineWidth = item.bad ? 2.5 : 2;
        pen.strokeStyle = item.bad ? style.bad : item === hover || item === pinned ? style.text : style.match;
        const edge = item.kind === "message" ? left - 7 : left - 1.5, wide = item.kind === "message" ? 14 : Math.max(right - left, 3) + 3;
        pen.beginPath(); pen.roundRect(edge, y - 1.5, wide, high + 3, 4); pen.stroke();
      }
      pen.globalAlpha = 1;
    }
  });
}
// It may still happen: a dashed line that fades, and to the end for the one in hand.
function tail(item, left, y) {
  const whole = item === hover || item === pinned, right = whole ? width : Math.min(left + 46, width);
  pen.save(); pen.strokeStyle = style.unknown; pen.lineWidth = 2; pen.setLineDash([3, 4]);
  if (!whole) {
    const fade = pen.createLinearGradient(left, 0, right + 0.1, 0);
    fade.addColorStop(0, style.unknown); fade.addColorStop(1, "transparent"); pen.strokeStyle = fade;
  }
  pen.beginPath(); pen.moveTo(left, y); pen.lineTo(right, y); pen.stroke(); pen.restore();
}
function message(item, left, y) {
  pen.fillStyle = item.events ? style.event : style.progress;
  pen.beginPath();
  if (item.events) pen.arc(left, y, 4, 0, 7);
  else { pen.moveTo(left, y - 4); pen.lineTo(left + 4, y); pen.lineTo(left, y + 4); pen.lineTo(left - 4, y); }
  pen.fill();
}
// The map of the whole time, and the axis.
function head() {
  pen.fillStyle = style.panel; pen.fillRect(0, 0, width, TOP);
  const whole = at => LEFT + (at - data.from) / (data.to - data.from) * (width - LEFT - 8);
  pen.fillStyle = style.back; pen.fillRect(LEFT, 4, width - LEFT - 8, MAP - 6);
  pen.fillStyle = style.read;
  const most = Math.max(...density);
  density.forEach((count, place) => {
    const size = (MAP - 10) * count / most;
    pen.globalAlpha = 0.5;
    pen.fillRect(LEFT + place / density.length * (width - LEFT - 8), MAP - 2 - size, (width - LEFT - 8) / density.length + 0.5, size);
  });
  pen.globalAlpha = 0.18; pen.fillStyle = style.fault;
  for (const [, a, b] of data.faults) pen.fillRect(whole(a), 4, Math.max(1, whole(b ?? end) - whole(a)), MAP - 6);
  pen.globalAlpha = 1; pen.fillStyle = style.bad;
  for (const place of bad) if (items.has(place)) pen.fillRect(whole(items.get(place).a) - 1, 3, 3, MAP - 4);
  pen.strokeStyle = style.text; pen.lineWidth = 1.5;
  const left = Math.max(LEFT, whole(from)), right = Math.min(width - 8, whole(to));
  pen.strokeRect(left, 4, Math.max(3, right - left), MAP - 6);
  pen.fillStyle = style.soft; pen.textAlign = "left";
  const step = steps();
  for (let tick = Math.ceil(from / step) * step; tick <= to; tick += step) {
    if (x(tick) < LEFT) continue;
    pen.fillStyle = style.soft; pen.fillText(time(tick, step), x(tick) + 4, MAP + 18);
    pen.fillStyle = style.line; pen.fillRect(x(tick), MAP + 6, 1, TOP - MAP - 6);
  }
  pen.fillStyle = style.soft; pen.fillText("whole run", 10, MAP / 2 + 1); pen.fillText("in view", 10, MAP + 18);
  pen.fillStyle = style.line; pen.fillRect(0, TOP - 1, width, 1);
}
const density = new Array(200).fill(0);
for (const item of items.values()) density[Math.max(0, Math.min(199, Math.floor((item.a - data.from) / (data.to - data.from) * 200)))]++;

function find(mouseX, mouseY) {
  if (mouseX < LEFT || mouseY < TOP) return null;
  const y = mouseY + down, line = rows.find(line => y >= line.y && y < line.y + line.height);
  if (!line) return null;
  const list = line.lanes[Math.min(line.lanes.length - 1, Math.floor((y - line.y) / ROW))];
  let best = null, distance = 6;
  for (let place = Math.max(0, first(list, at(mouseX - 8)) - 1); place < list.length && x(list[place].a) <= mouseX + 6; place++) {
    const left = x(list[place].a), right = Math.max(x(list[place].b), left + 2), far = Math.max(left - mouseX, mouseX - right, 0);
    if (far < distance || (far === 0 && list[place].bad)) { best = list[place]; distance = far; }
  }
  return best;
}
const element = (tag, text, name) => { const made = document.createElement(tag); made.textContent = text; if (name) made.className = name; return made; };
// The violations that it is part of, with the store's states.
function because(item) {
  const concerns = violation => item.kind === "op" ? violation.operations.includes(item.place) : violation.watches.includes(item.watch);
  for (const violation of data.violations.filter(concerns)) {
    const why = element("div", "", "why");
    why.append(element("b", violation.title));
    if (violation.expected) why.append(element("pre", `expected  ${violation.expected}\ngot       ${violation.got}`));
    if (violation.states.length) why.append(element("pre", `the store around it:\n${violation.states.join("\n")}`));
    tip.append(why);
  }
}
function describe(item) {
  tip.replaceChildren();
  if (item.kind === "op") {
    const outcome = ["ok", "failed", "outcome unknown"][item.outcome];
    tip.append(element("b", `operation ${item.place} · process ${item.process} · ${outcome}`));
    tip.append(element("span", `${moment(item.a)} to ${item.open && item.b === item.a ? "no answer" : moment(item.b)} (${moment(item.b - item.a)})`, "when"));
    for (const part of item.text) tip.append(element("pre", part));
  } else if (item.kind === "node") {
    tip.append(element("b", `${item.member}: ${item.state}${item.term ? ", term " + item.term : ""}`), element("span", `${moment(item.a)} to ${moment(item.b)}`, "when"));
  } else if (item.kind === "fault") {
    tip.append(element("b", item.name), element("span", `${moment(item.a)} to ${item.open ? "the end" : moment(item.b)}`, "when"));
  } else {
    tip.append(element("b", `${item.name}: ${item.label}`), element("span", moment(item.a), "when"), element("pre", item.text));
  }
  if (item.kind === "op" || item.kind === "message" && item.bad) because(item);
}
function place(mouse) {
  tip.style.display = "block";
  const box = tip.getBoundingClientRect();
  const left = mouse.clientX + 16 + box.width > innerWidth ? Math.max(4, mouse.clientX - box.width - 12) : mouse.clientX + 16;
  tip.style.left = left + "px";
  tip.style.top = Math.max(4, Math.min(mouse.clientY + 14, innerHeight - box.height - 8)) + "px";
}
function unpin() { pinned = null; tip.classList.remove("pinned"); tip.style.display = "none"; draw(); }

function show(item) {
  const size = Math.max((item.b - item.a) * 12, Math.min(to - from, (data.to - data.from) / 20));
  const line = rows.find(line => line.lanes.some(list => list.includes(item)));
  if (line) down = Math.max(0, Math.min(line.y + item.level * ROW - shown / 2 || 0, height - shown));
  pinned = item; view((item.a + item.b) / 2 - size / 2, (item.a + item.b) / 2 + size / 2);
  describe(item);
  tip.classList.add("pinned");
  const box = canvas.getBoundingClientRect();
  place({ clientX: box.left + Math.max(LEFT, Math.min(x(item.b), width - 200)), clientY: box.top + (line ? line.y - down + ROW : shown / 2) });
}
let turn = -1;
const wrong = data.violations.flatMap(violation => violation.operations).filter(place => items.has(place)).map(place => items.get(place));
// What a watcher was told wrong: its first message at or behind the revision.
for (const violation of data.violations) for (const place of violation.watches) {
  const told = rows.flatMap(line => line.segments || []).flat().filter(watch => watch.watch === place).flatMap(watch => watch.messages);
  const item = told.find(item => item.revision >= violation.revision) || told[told.length - 1];
  if (item) { item.bad = true; wrong.push(item); }
}
function jump(by) { if (wrong.length) { turn = (turn + by + wrong.length) % wrong.length; show(wrong[turn]); } }
function look() {
  wanted = search.value; match = -1;
  matches = !wanted ? [] : rows.flatMap(line => line.lanes.flat()).filter(item => item.keys && item.keys.includes(wanted)).sort((one, other) => one.a - other.a);
  document.getElementById("found").textContent = wanted ? `${matches.length} found` : "";
  draw();
}
function next(by) { if (matches.length) { match = (match + by + matches.length) % matches.length; show(matches[match]); document.getElementById("found").textContent = `${match + 1} of ${matches.length}`; } }

let grabbed = null, moved = false;
canvas.addEventListener("wheel", event => {
  event.preventDefault();
  if (event.ctrlKey || event.metaKey || (!event.shiftKey && Math.abs(event.deltaY) >= Math.abs(event.deltaX))) zoom(Math.exp(event.deltaY * 0.0016), event.offsetX);
  else pan((event.deltaX || event.deltaY) / width);
}, { passive: false });
canvas.addEventListener("pointerdown", event => {
  canvas.setPointerCapture(event.pointerId); canvas.classList.add("drag");
  grabbed = { x: event.offsetX, y: event.offsetY, from, to, down, map: event.offsetY < MAP }; moved = false;
  if (grabbed.map) overview(event);
});
function overview(event) {
  const middle = data.from + (event.offsetX - LEFT) / (width - LEFT - 8) * (data.to - data.from), size = to - from;
  view(middle - size / 2, middle + size / 2);
}
canvas.addEventListener("pointermove", event => {
  if (grabbed) {
    if (Math.abs(event.offsetX - grabbed.x) + Math.abs(event.offsetY - grabbed.y) > 3) moved = true;
    if (grabbed.map) return overview(event);
    if (!moved) return;
    const step = (event.offsetX - grabbed.x) / (width - LEFT) * (grabbed.to - grabbed.from);
    down = Math.max(0, Math.min(grabbed.down - (event.offsetY - grabbed.y), height - shown));
    view(grabbed.from - step, grabbed.to - step);
    return;
  }
  const item = find(event.offsetX, event.offsetY);
  if (item !== hover) { hover = item; draw(); }
  if (pinned) return;
  if (item) { describe(item); place(event); } else tip.style.display = "none";
});
canvas.addEventListener("pointerup", event => {
  canvas.classList.remove("drag");
  if (grabbed && !moved && !grabbed.map) {
    const item = find(event.offsetX, event.offsetY);
    unpin();
    if (item) { pinned = item; describe(item); tip.classList.add("pinned"); place(event); draw(); }
  }
  grabbed = null;
});
canvas.addEventListener("pointerleave", () => { hover = null; if (!pinned) tip.style.display = "none"; draw(); });
addEventListener("keydown", event => {
  if (event.target === search) {
    if (event.key === "Enter") next(event.shiftKey ? -1 : 1);
    if (event.key === "Escape") { search.value = ""; look(); search.blur(); }
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const keys = {
    ArrowLeft: () => pan(-0.15), ArrowRight: () => pan(0.15), ArrowUp: () => scroll(-ROW * 2), ArrowDown: () => scroll(ROW * 2),
    "+": () => zoom(0.7), "=": () => zoom(0.7), "-": () => zoom(1 / 0.7), "0": fit, n: () => jump(1), p: () => jump(-1),
    "/": () => search.focus(), Escape: unpin,
  };
  if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
});
search.addEventListener("input", look);
const on = (id, act) => { const button = document.getElementById(id); if (button) button.addEventListener("click", act); };
on("in", () => zoom(0.6)); on("out", () => zoom(1 / 0.6)); on("fit", fit); on("jump", () => jump(1)); on("next", () => next(1)); on("before", () => next(-1));
document.querySelectorAll("[data-operation]").forEach(button => button.addEventListener("click", () => {
  const item = items.get(Number(button.dataset.operation));
  if (item) { show(item); canvas.scrollIntoView({ block: "nearest" }); }
}));
addEventListener("resize", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { colours(); draw(); });
colours();
fit();
if (wrong.length) requestAnimationFrame(() => requestAnimationFrame(() => {
  // Begin where it went wrong, with room around.
  const item = wrong[0], size = Math.max((item.b - item.a) * 25, (data.to - data.from) / 60);
  const line = rows.find(line => line.lanes.some(list => list.includes(item)));
  if (line && line.y > shown - ROW * 2) down = Math.min(line.y - shown / 2, height - shown);
  view((item.a + item.b) / 2 - size / 2, (item.a + item.b) / 2 + size / 2);
}));
