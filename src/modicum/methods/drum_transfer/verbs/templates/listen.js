"use strict";
// Keeps the answers in the browser as they are given, and writes them as CSV.

const form = document.getElementById("answers");
const page = form.dataset.page;
const key = "modicum-listening-" + page;
const items = [...form.querySelectorAll("audio")].map((audio) => audio.dataset.item);
const columns = ["page", "listener", "item", "pattern", "fills", "musical", "short", "preferred",
  "comment"];

function warn(text) {
  const place = document.getElementById("warning");
  place.textContent = text;
  place.hidden = false;
}

function keep() {
  try {
    localStorage.setItem(key, JSON.stringify([...new FormData(form)]));
  } catch {
    warn("This browser keeps no answers: save them as CSV before you close the page.");
  }
}

function restore() {
  let kept = [];
  try {
    kept = JSON.parse(localStorage.getItem(key)) ?? [];
  } catch {
    warn("This browser keeps no answers: save them as CSV before you close the page.");
  }
  for (const [name, value] of kept) {
    const field = form.elements.namedItem(name);
    if (field?.type === "checkbox") field.checked = true;
    else if (field) field.value = value;
  }
}

// A row of the CSV for each groove.
function rows() {
  const answers = new FormData(form);
  const answer = (name) => (answers.get(name) ?? "").trim();
  return items.map((item, place) => {
    const pair = place % 2 ? items[place - 1] + item : item + items[place + 1];
    const choice = answer(pair + "-preferred");
    const preferred = ["", "equal"].includes(choice) ? choice : choice === item ? "yes" : "no";
    return [page, answer("listener"), item, answer(item + "-pattern"), answer(item + "-fills"),
      answer(item + "-musical"), answer(item + "-short") || "no", preferred,
      answer(item + "-comment")];
  });
}

function show() {
  const done = rows().filter((row) => row[3] && row[4] && row[5] && row[7]).length;
  document.getElementById("progress").textContent =
    `${done} of ${items.length} grooves answered in full`;
}

function save() {
  // Spreadsheets run text that begins so; an apostrophe before it keeps it text.
  const cell = (field) => /^[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/.test(field) ? "'" + field : field;
  const quoted = (field) => '"' + cell(field).replaceAll('"', '""') + '"';
  const lines = [columns, ...rows()].map((row) => row.map(quoted).join(",") + "\r\n");
  // The mark at the beginning tells spreadsheets that it is UTF-8.
  const blob = new Blob(["\ufeff", ...lines], { type: "text/csv;charset=utf-8" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `answers-${page}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", () => { keep(); show(); });
// One groove at a time. The event does not bubble.
form.addEventListener("play", (event) => {
  for (const audio of form.querySelectorAll("audio")) if (audio !== event.target) audio.pause();
}, true);
document.getElementById("save").addEventListener("click", save);
document.getElementById("clear").addEventListener("click", () => {
  if (!confirm("Clear all answers?")) return;
  form.reset();
  keep();
  show();
});
restore();
show();
