"use strict";
const page = JSON.parse(document.getElementById("page").textContent);
const $ = (id) => document.getElementById(id);
const COMPARISONS = {
  "": "original and reconstruction",
  images: "original before and after the edit",
  reconstructions: "reconstruction before and after the edit",
};
const DEFAULTS = { model: "", stage: "", method: "", photo: "", edit: "", compare: "", scale: "0.25", wipe: "50", x: "", y: "" };
const state = { ...DEFAULTS };
const full = ({ label, unit }) => (unit ? `${label} (${unit})` : label);
const source = (number) => "data:image/webp;base64," + page.pictures[number];

function element(tag, text, attributes = {}) {
  const node = document.createElement(tag);
  if (text) node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function fill(select, texts, value) {
  select.replaceChildren(...Object.entries(texts).map(([key, text]) => element("option", text, { value: key })));
  select.value = value;
}
const named = (names) => Object.fromEntries(names.map((name) => [name, name]));

// the address holds the state, so that what is shown can be linked
function readAddress() {
  if (location.hash && !location.hash.includes("=")) return;  // a place on the page
  Object.assign(state, DEFAULTS, Object.fromEntries(new URLSearchParams(location.hash.slice(1))));
}
let written = 0;
function writeAddress() {
  clearTimeout(written);  // browsers refuse many changes in a row
  written = setTimeout(() => {
    const kept = Object.entries(state).filter(([name, value]) => name in DEFAULTS && value !== DEFAULTS[name]);
    history.replaceState(null, "", "#" + new URLSearchParams(kept));
  }, 150);
}

// whatever the state names and is not there becomes the first that is
let model;
function settle() {
  model = page.models.find(({ name }) => name === state.model) ?? page.models[0];
  state.model = model.name;
  const [stage, method] = model.first;
  if (!model.stages.includes(state.stage)) state.stage = stage;
  if (!model.methods.includes(state.method)) state.method = method;
  if (!model.photos.includes(state.photo)) state.photo = model.photos[0];
  if (!model.edits.includes(state.edit)) state.edit = "";
  if (!state.edit || !(state.compare in COMPARISONS)) state.compare = "";
  if (![...$("scale").options].some(({ value }) => value === state.scale)) state.scale = DEFAULTS.scale;
  state.wipe = String(Math.min(Math.max(Number(state.wipe) || 0, 0), 100));
}

function drawControls() {
  fill($("model"), named(page.models.map(({ name }) => name)), state.model);
  fill($("method"), named(model.methods), state.method);
  fill($("edit"), { "": model.edits.length ? "none" : "none kept", ...named(model.edits) }, state.edit);
  fill($("compare"), state.edit ? COMPARISONS : { "": COMPARISONS[""] }, state.compare);
  for (const id of ["edit", "compare"]) $(id).disabled = $(id).options.length < 2;
  $("stage").max = model.stages.length - 1;
  $("stage").value = model.stages.indexOf(state.stage);
  $("stage").setAttribute("aria-valuetext", state.stage);
  $("stage-shown").textContent = `${state.stage} (${model.stages.indexOf(state.stage) + 1} of ${model.stages.length})`;
  $("photo-shown").textContent = state.photo;
  if ($("photos").dataset.model !== state.model) {
    $("photos").dataset.model = state.model;
    $("photos").replaceChildren(...model.photos.map((photo, i) => {
      const label = element("label", "", { title: photo });
      label.append(
        element("input", "", { type: "radio", name: "photo", value: photo }),
        element("img", "", { src: source(model.originals[i]), alt: photo }),
      );
      return label;
    }));
  }
  for (const input of $("photos").querySelectorAll("input")) input.checked = input.value === state.photo;
  $("wipe").value = state.wipe;
  $("scale").value = state.scale;
}

// which two pictures are compared: what they are called, their numbers, and why one is not there
function chosen() {
  const photo = model.photos.indexOf(state.photo), edit = model.edits.indexOf(state.edit);
  const cell = model.cells[model.stages.indexOf(state.stage)][model.methods.indexOf(state.method)];
  const original = { name: "original", number: model.originals[photo] };
  const reconstruction = { name: "reconstruction", number: cell?.pictures?.[photo] };
  const edited = { name: "edited original", number: model.edited[edit]?.[photo] };
  const after = { name: "edited reconstruction", number: cell?.edits?.[edit]?.[photo] };
  let why = cell ? cell.why ?? "" : "this row is not in the records";
  const pair = { "": edit < 0 ? [original, reconstruction] : [edited, after], images: [original, edited], reconstructions: [reconstruction, after] }[state.compare];
  if (!why && pair.some(({ number }) => number === undefined || number === null)) {
    why = edit < 0 ? "no picture of this photo is kept of this row" : "no picture of this edit of this photo is kept of this row";
  }
  return { cell, photo, pair, why };
}

const decoded = new Map();
async function pixels(number) {
  if (!decoded.has(number)) {
    const image = new Image();
    image.src = source(number);
    await image.decode();
    const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight), context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    decoded.set(number, context.getImageData(0, 0, canvas.width, canvas.height));
  }
  return decoded.get(number);
}

const MAP = page.map.map((colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)));
let shown = { pair: [], images: [] };  // what the canvases hold
let turn = 0;

async function drawPictures() {
  const mine = ++turn, { cell, photo, pair, why } = chosen();
  const there = ({ number }) => number !== undefined && number !== null;
  const images = await Promise.all(pair.map((picture) => (there(picture) ? pixels(picture.number) : null)));
  if (mine !== turn) return;  // another choice came while this one was decoded
  shown = { pair, images };
  const size = images.find((image) => image) ?? await pixels(model.originals[photo]);
  for (const [i, id] of ["first", "second"].entries()) {
    const name = pair[i].name[0].toUpperCase() + pair[i].name.slice(1);
    $(id + "-name").textContent = name;
    $(id + "-row").replaceChildren(element("span", "", { class: "swatch" }), pair[i].name);
    paint($(id), images[i] ?? new ImageData(size.width, size.height), `${name} of ${state.photo}${i ? `, ${state.method} at ${state.stage}` : ""}`);
  }
  $("why").hidden = !why;
  $("why").textContent = why;
  $("wipe-names").textContent = state.compare ? "before | after" : pair.map(({ name }) => name.split(" ").pop()).join(" | ");
  drawWipe();
  drawDifference();
  drawPoint();
  smooth();
  drawMeasures(cell, photo, why);
}

// pixels are squares where they are shown large enough; else some would be wider than others
function smooth() {
  const pixel = ($("first").clientWidth * devicePixelRatio) / $("first").width;
  $("pictures").classList.toggle("smooth", pixel < 2 && pixel % 1 > 0.01);
}
addEventListener("resize", smooth);

const pen = (canvas) => canvas.getContext("2d", { willReadFrequently: true });  // small ones need no GPU

function paint(canvas, image, label) {
  if (canvas.width !== image.width || canvas.height !== image.height) Object.assign(canvas, { width: image.width, height: image.height });
  pen(canvas).putImageData(image, 0, 0);
  canvas.setAttribute("aria-label", label);
}

function both() {
  const [a, b] = shown.images;
  return a && b && a.width === b.width && a.height === b.height;
}

function drawWipe() {
  const [first, second] = shown.images, left = first ?? second;
  if (!left) return;
  paint($("wiped"), left, `Wipe, ${state.wipe} % ${shown.pair[0].name}, the rest ${shown.pair[1].name}`);
  $("edge").style.left = `${state.wipe}%`;
  const from = Math.round((left.width * Number(state.wipe)) / 100);
  if (both() && from < left.width) pen($("wiped")).putImageData(second, 0, 0, from, 0, left.width - from, left.height);
}

function drawDifference() {
  const [a, b] = shown.images, top = Number(state.scale);
  $("top").textContent = state.scale;
  for (const id of ["wiped", "difference"]) $(id).closest("figure").hidden = !both();
  $("beyond").textContent = "";
  if (!both()) return;
  const map = new ImageData(a.width, a.height);
  let sum = 0, beyond = 0;
  for (let at = 0; at < a.data.length; at += 4) {
    const size = (Math.abs(a.data[at] - b.data[at]) + Math.abs(a.data[at + 1] - b.data[at + 1]) + Math.abs(a.data[at + 2] - b.data[at + 2])) / 765;
    sum += size;
    beyond += size > top;
    map.data.set([...MAP[Math.min(Math.round((size / top) * 255), 255)], 255], at);
  }
  const count = a.width * a.height;
  const share = (100 * beyond) / count;
  const past = beyond ? `, ${share < 0.1 ? "under 0.1" : share.toFixed(1)} % of the pixels are beyond the scale` : "";
  const text = `mean ${(sum / count).toFixed(3)}${past}`;
  $("beyond").textContent = text;
  paint($("difference"), map, `Difference, ${text}`);
}

// the point whose values are shown: where the mouse is, else where it was put last
let hovered = null;
function point() {
  const { width, height } = $("first");
  const within = (text, size) => Math.min(Math.max(text === "" ? Math.floor(size / 2) : Math.round(Number(text)) || 0, 0), size - 1);
  return hovered ?? { x: within(state.x, width), y: within(state.y, height) };
}

function drawPoint() {
  const { width, height } = $("first"), { x, y } = point();
  for (const mark of document.querySelectorAll(".point")) {
    mark.style.left = `${(100 * (x + 0.5)) / width}%`;
    mark.style.top = `${(100 * (y + 0.5)) / height}%`;
  }
  $("where").textContent = `At x ${x}, y ${y} of ${width} by ${height} pixels`;
  const at = 4 * (y * width + x);
  const colours = shown.images.map((image) => (image ? [0, 1, 2].map((i) => image.data[at + i] / 255) : null));
  const [a, b] = colours;
  const lines = [...colours, a && b ? a.map((value, i) => b[i] - value) : null];
  for (const [i, line] of lines.entries()) {
    const cells = $("values").tBodies[0].rows[i].cells;
    for (const part of [0, 1, 2]) cells[part + 1].textContent = line ? (i === 2 && line[part] >= 0 ? "+" : "") + line[part].toFixed(3) : "-";
    const swatch = cells[0].querySelector(".swatch");
    if (swatch) swatch.style.background = line ? `rgb(${line.map((value) => Math.round(255 * value))})` : "none";
  }
  return `x ${x}, y ${y}. ` + colours.map((line, i) => `${shown.pair[i].name}: ${line ? line.map((value) => value.toFixed(2)).join(", ") : "none"}`).join(". ");
}

function drawMeasures(cell, photo, why) {
  const has = cell && "values" in cell;
  const count = $("more").checked ? page.measures.length : page.above;
  const lines = has ? cell.values.slice(0, count) : [];
  $("measures").tBodies[0].replaceChildren(...lines.map((value, i) => {
    const measure = page.measures[i], row = element("tr");
    row.append(element("th", full(measure), { scope: "row", title: `${measure.doc} ${measure.better}.` }));
    const texts = [value.images[photo] ?? (value.n ? "not defined" : "-"), value.row, value.interval || value.why, value.n ? String(value.n) : "-"];
    row.append(...texts.map((text) => element("td", text)));
    return row;
  }));
  const seeds = model.seeds > 1 ? ` Shown: seed ${model.seed} of ${model.seeds} seeds.` : "";
  $("cell").textContent = has ? `${state.model} / ${state.stage} / ${cell.label}. Budget: ${cell.budget}.${seeds}` : `${state.model} / ${state.stage} / ${state.method}`;
  $("links").replaceChildren();
  if (has && page.report) $("links").append(element("a", "This row in the report", { href: `${page.report}#${cell.row}` }));
  if (has && cell.record) $("links").append(element("a", `Record ${cell.id}`, { href: cell.record }));
  const numbers = has ? cell.values.slice(0, page.above).map((value, i) => `${page.measures[i].label} ${value.images[photo] ?? "not defined"} ${page.measures[i].unit}`.trim()) : [];
  const of = numbers.length ? ` ${numbers.join(", ")} (n\u00a0=\u00a01${state.edit ? ", without the edit" : ""}).` : "";
  const edit = state.edit ? `, edited: ${state.edit}` : "";
  $("status").textContent = `${state.photo} by ${state.method} from ${state.stage} of ${state.model}${edit}.` + (why ? ` No picture: ${why}.` : of);
}

function show() {
  settle();
  drawControls();
  return drawPictures();
}
function change(name, value) {
  state[name] = value;
  writeAddress();
  return show();
}

for (const id of ["model", "method", "edit", "compare", "scale"]) $(id).addEventListener("change", (event) => change(id, event.target.value));
$("stage").addEventListener("input", (event) => change("stage", model.stages[event.target.value]));
$("photos").addEventListener("change", (event) => change("photo", event.target.value));
$("more").addEventListener("change", show);
$("wipe").addEventListener("input", (event) => wipe(event.target.value));
addEventListener("hashchange", () => {
  readAddress();
  show();
});

function wipe(share) {
  state.wipe = String(Math.round(Math.min(Math.max(share, 0), 100)));
  $("wipe").value = state.wipe;
  writeAddress();
  drawWipe();
}

// mouse and touch
function under(event) {
  const { width, height } = event.target, box = event.target.getBoundingClientRect();
  const at = (offset, length, size) => Math.min(Math.max(Math.floor((offset / length) * size), 0), size - 1);
  return { x: at(event.clientX - box.left, box.width, width), y: at(event.clientY - box.top, box.height, height) };
}
function keep({ x, y }) {
  hovered = null;
  Object.assign(state, { x: String(x), y: String(y) });
  writeAddress();
  return drawPoint();
}
for (const canvas of document.querySelectorAll("canvas")) {
  const drag = (event) => {
    if (canvas.id === "wiped") {
      const box = canvas.getBoundingClientRect();
      wipe((100 * (event.clientX - box.left)) / box.width);
    } else keep(under(event));
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    drag(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.buttons) drag(event);
    else {
      hovered = under(event);
      drawPoint();
    }
  });
  canvas.addEventListener("pointerleave", () => {
    hovered = null;
    drawPoint();
  });
}

// keys, while the pictures have the focus
function step(select, by) {
  const values = [...select.options].map(({ value }) => value);
  change(select.id, values[(values.indexOf(select.value) + by + values.length) % values.length]);
}
function along(name, values, by) {
  const at = values.indexOf(state[name]) + by;
  if (at >= 0 && at < values.length) change(name, values[at]);
}
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const LETTERS = {
  s: (by) => along("stage", model.stages, by),
  p: (by) => along("photo", model.photos, by),
  m: (by) => step($("method"), by),
  e: (by) => step($("edit"), by),
  c: (by) => step($("compare"), by),
  w: (by) => wipe(Number(state.wipe) + 5 * by),
  d: (by) => along("scale", [...$("scale").options].map(({ value }) => value), by),
};
$("pictures").addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const move = MOVES[event.key], letter = LETTERS[event.key.toLowerCase()];
  if (move) {
    const by = event.shiftKey ? 8 : 1, { x, y } = point(), { width, height } = $("first");
    const within = (value, size) => Math.min(Math.max(value, 0), size - 1);
    $("spoken").textContent = keep({ x: within(x + by * move[0], width), y: within(y + by * move[1], height) });
  } else if (letter) letter(event.shiftKey ? -1 : 1);
  else return;
  event.preventDefault();
});

readAddress();
show();
