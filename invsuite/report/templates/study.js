"use strict";
const page = JSON.parse(document.getElementById("page").textContent);
const $ = (id) => document.getElementById(id);
const answers = []; // {pair, choice, seconds}, in the order asked
let since = 0;
let saved = true;

function show() {
  const at = answers.length;
  const over = at === page.pairs.length;
  $("trial").hidden = over;
  $("end").hidden = !over;
  $("save").hidden = $("back").hidden = at === 0;
  $("bar").value = at;
  if (over) {
    $("thanks").textContent = `All ${at} pairs are answered. Thank you: save the answers and send the file back.`;
    $("thanks").focus();
    return;
  }
  $("progress").textContent = `Pair ${at + 1} of ${page.pairs.length}`;
  for (const [i, id] of ["original", "left", "right"].entries()) {
    $(id).src = "data:image/webp;base64," + page.pictures[page.pairs[at][i]];
  }
  since = performance.now();
}

function answer(choice) {
  if ($("trial").hidden) return;
  answers.push({ pair: answers.length, choice, seconds: Math.round(performance.now() - since) / 1000 });
  saved = false;
  show();
}

function back() {
  if (!answers.length) return;
  answers.pop();
  show();
}

function save() {
  const rater = $("rater").value.trim();
  const { format, suite, study } = page;
  const text = JSON.stringify({ format, suite, study, rater, answers }, null, 1);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = `${suite}-answers-${rater.replace(/[^\w-]+/g, "_")}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  saved = true;
}

$("intro").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!$("rater").value.trim()) return;
  $("intro").hidden = true;
  show();
});
for (const button of document.querySelectorAll("[data-choice]")) {
  button.addEventListener("click", () => answer(button.dataset.choice));
}
$("back").addEventListener("click", back);
$("save").addEventListener("click", save);
document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "INPUT") return;
  if (!$("intro").hidden) return;
  const act = { ArrowLeft: () => answer("left"), ArrowRight: () => answer("right"), ArrowDown: () => answer("tie"), Backspace: back }[event.key];
  if (act) {
    event.preventDefault();
    act();
  }
});
window.addEventListener("beforeunload", (event) => {
  if (!saved) event.preventDefault();
});
