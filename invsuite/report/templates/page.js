"use strict";
const page = JSON.parse(document.getElementById("page").textContent);
const $ = (id) => document.getElementById(id);

function element(tag, text, attributes = {}) {
  const node = document.createElement(tag);
  if (text) node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function picture(number, alt) {
  return element("img", "", { src: "data:image/webp;base64," + page.pictures[number], alt });
}

function fill(select, texts) {
  select.replaceChildren(...texts.map((text, value) => element("option", text, { value })));
}

// leaderboard: sort by a column, best first, then the other way; rows without a value stay last
const board = $("board");
const body = board.tBodies[0];

function compare(a, b) {
  const numbers = [Number(a), Number(b)];
  return numbers.some(Number.isNaN) ? a.localeCompare(b) : numbers[0] - numbers[1];
}

function sortBy(head) {
  const column = head.cellIndex;
  const other = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  const order = head.hasAttribute("aria-sort") ? other : head.dataset.first;
  for (const each of board.tHead.rows[0].cells) each.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  const key = (row) => row.cells[column].dataset.sort;
  const sign = order === "ascending" ? 1 : -1;
  const rows = [...body.rows];
  rows.sort((a, b) => (key(a) === "") - (key(b) === "") || sign * compare(key(a), key(b)));
  body.append(...rows);
  $("board-status").textContent = `Sorted by ${head.dataset.name}, ${order}.`;
}
for (const head of board.tHead.rows[0].cells) {
  head.querySelector("button").addEventListener("click", () => sortBy(head));
}

const filters = ["model", "stage", "method"].map((name) => [$("board-" + name), name]);
for (const [select, name] of filters) {
  const known = [...new Set([...body.rows].map((row) => row.dataset[name]))];
  select.append(...known.map((text) => element("option", text, { value: text })));
}
function filterBoard() {
  let shown = 0;
  for (const row of body.rows) {
    row.hidden = filters.some(([select, name]) => select.selectedIndex > 0 && row.dataset[name] !== select.value);
    shown += !row.hidden;
  }
  $("board-status").textContent = `${shown} of ${body.rows.length} rows.`;
}
for (const [select] of filters) select.addEventListener("change", filterBoard);
$("board-measure").addEventListener("change", (event) => {
  const wanted = event.target.value;
  for (const row of board.rows) {
    for (const cell of row.cells) cell.hidden = wanted !== "" && "measure" in cell.dataset && cell.dataset.measure !== wanted;
  }
});
filterBoard();

// heat maps: one measure at a time
function showMap() {
  for (const part of document.querySelectorAll(".map")) part.hidden = part.dataset.measure !== $("map-measure").value;
}
if ($("map-measure")) {
  $("map-measure").addEventListener("change", showMap);
  showMap();
}

// reconstruction walls: a slider over the stages of a model
function drawWall() {
  const wall = page.wall[$("wall-model").value];
  const slider = $("wall-stage");
  slider.max = wall.stages.length - 1;
  slider.value = Math.min(slider.value, slider.max);
  const stage = wall.stages[slider.value];
  slider.setAttribute("aria-valuetext", stage);
  $("wall-shown").textContent = `${stage} (${Number(slider.value) + 1} of ${wall.stages.length})`;
  const line = (name, numbers, alt, budget = "") => {
    const row = element("tr"), head = element("th", name, { scope: "row" });
    if (budget) head.append(element("small", budget));
    row.append(head);
    for (const [i, key] of wall.images.entries()) {
      const cell = element("td");
      if (i < numbers.length) cell.append(picture(numbers[i], `${alt} of ${key}`));
      else cell.append(element("span", "no picture", { class: "faint" }));
      row.append(cell);
    }
    return row;
  };
  const ofStage = wall.reconstructions[slider.value], budgets = wall.budgets[slider.value];
  $("wall").tBodies[0].replaceChildren(
    line("original", wall.originals, "original"),
    ...wall.methods.map((method, i) => [method, ofStage[i], budgets[i]]).filter(([, numbers]) => numbers.length)
      .map(([method, numbers, budget]) => line(method, numbers, `${method} at ${stage}`, budget)),
  );
  $("wall").tHead.rows[0].replaceChildren(
    element("th", "Method", { scope: "col" }), ...wall.images.map((key) => element("th", key, { scope: "col" })),
  );
}
if (page.wall.length) {
  fill($("wall-model"), page.wall.map((wall) => wall.model));
  $("wall-model").addEventListener("change", drawWall);
  $("wall-stage").addEventListener("input", drawWall);
  drawWall();
}

// best and worst images of a cell by a measure
const named = (measure) => measure.label + (measure.unit ? " " + measure.unit : "");

function card(cell, number, place, chosen) {
  const image = cell.images[number];
  const item = element("li", "", { class: "pair" });
  item.append(element("p", `${named(page.measures[chosen])} ${image.values[chosen]}`, { class: "chosen" }));
  if ("reconstruction" in image) {
    const pictures = element("div", "", { class: "pictures" });
    for (const part of ["original", "reconstruction"]) {
      const figure = element("figure");
      figure.append(picture(image[part], `${part} of ${image.key}`), element("figcaption", part));
      pictures.append(figure);
    }
    item.append(pictures);
  } else item.append(element("p", "no picture kept", { class: "faint" }));
  item.append(element("p", `${image.key}: ${place} of n\u00a0=\u00a0${cell.n[chosen]}`));
  const details = element("details");
  const list = element("ul");
  for (const [i, value] of image.values.entries()) {
    list.append(element("li", `${named(page.measures[i])}: ${value ?? "not defined"}`));
  }
  details.append(element("summary", "All measures of this image (n = 1)"), list);
  item.append(details);
  return item;
}

function drawImages() {
  const choice = ["model", "stage", "method"].map((name) => $("image-" + name).value);
  const cell = page.images.find(({ cell }) => cell.every((part, i) => part === choice[i]));
  const chosen = Number($("image-measure").value);
  for (const [end, word] of [["worst", "worst"], ["best", "best"]]) {
    const numbers = cell[end][chosen];
    const cards = numbers.map((number, i) => card(cell, number, (i ? `${i + 1}. ` : "") + word, chosen));
    $("images-" + end).replaceChildren(...(cards.length ? cards : [element("li", "not measured here")]));
  }
  $("images-status").textContent = `${choice.join(" / ")}, ${page.measures[chosen].label}, n = ${cell.n[chosen]} images`;
}

// each select offers what the ones before it leave
function narrow(level) {
  const names = ["model", "stage", "method"];
  for (let i = level; i < 3; i++) {
    const chosen = names.slice(0, i).map((name) => $("image-" + name).value);
    const left = page.images.filter(({ cell }) => chosen.every((part, j) => cell[j] === part));
    const select = $("image-" + names[i]);
    const before = select.value;
    const texts = [...new Set(left.map(({ cell }) => cell[i]))];
    select.replaceChildren(...texts.map((text) => element("option", text, { value: text })));
    if (texts.includes(before)) select.value = before;
  }
  drawImages();
}
if (page.images.length && page.measures.length) {
  fill($("image-measure"), page.measures.map((measure) => measure.label));
  for (const [i, name] of ["model", "stage", "method"].entries()) {
    $("image-" + name).addEventListener("change", () => narrow(i + 1));
  }
  $("image-measure").addEventListener("change", drawImages);
  narrow(0);
}
