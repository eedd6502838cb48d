"use strict";
// Sorting, filtering, and opening what a link leads to. The page is whole without any of it.

document.querySelectorAll(".needs-script").forEach((control) => { control.hidden = false; });

// Where a narrow window shows rows as cards, the cells' names come from here, and the roles of a table stay.
document.querySelectorAll("table.sortable, table.checks").forEach((table) => {
  const heads = [...table.tHead.rows[0].cells];
  table.setAttribute("role", "table");
  [table.tHead, ...table.tBodies].forEach((group) => group.setAttribute("role", "rowgroup"));
  [...table.rows].forEach((row) => {
    row.setAttribute("role", "row");
    [...row.cells].forEach((cell, column) => {
      const isHead = cell.tagName === "TH";
      cell.setAttribute("role", isHead ? (cell.scope === "row" ? "rowheader" : "columnheader") : "cell");
      if (!isHead && column > 1) cell.dataset.label = heads[column].innerText.trim();
    });
  });
});

// A chart is named by its heading; in a table its figures are in the row, and it says nothing more.
document.querySelectorAll("figure").forEach((figure) => {
  const chart = figure.querySelector("svg");
  chart.setAttribute("role", chart.querySelector("a") ? "group" : "img");
  chart.setAttribute("aria-label", figure.querySelector("h3, h4").textContent);
});
document.querySelectorAll(".plot svg").forEach((chart) => chart.setAttribute("aria-hidden", "true"));

const figureOf = (cell) => ("v" in cell.dataset ? Number(cell.dataset.v) : null);

function compare(one, other, down) {
  const [a, b] = [figureOf(one), figureOf(other)];
  const [textA, textB] = [one.textContent.trim(), other.textContent.trim()];
  // What has no figure comes last, whichever way the rest is sorted.
  if (!textA || !textB) return Number(!textA) - Number(!textB);
  const order = a !== null && b !== null ? a - b : textA.localeCompare(textB, "en", { numeric: true });
  return down ? -order : order;
}

document.querySelectorAll("table.sortable").forEach((table) => {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const body = table.tBodies[0];
      const rows = [...body.rows].sort((x, y) => compare(x.cells[column], y.cells[column], down));
      body.append(...rows);
    });
  });
});

const filter = document.getElementById("filter");
if (filter) {
  filter.addEventListener("input", () => {
    const wanted = filter.value.trim().toLowerCase();
    const rows = [...document.querySelectorAll("table.sortable tbody tr")];
    rows.forEach((row) => { row.hidden = !row.textContent.toLowerCase().includes(wanted); });
    const shown = rows.filter((row) => !row.hidden).length;
    document.getElementById("found").textContent = wanted ? `${shown} of ${rows.length} rows` : "";
  });
}

const cases = [...document.querySelectorAll("details.case")];
const all = document.getElementById("all");
if (all) {
  all.addEventListener("click", () => {
    const open = all.getAttribute("aria-pressed") !== "true";
    all.setAttribute("aria-pressed", String(open));
    all.textContent = open ? "Close all" : "Open all";
    cases.forEach((details) => { details.open = open; });
  });
}

function openTarget() {
  const target = document.getElementById(location.hash.slice(1));
  if (target instanceof HTMLDetailsElement) {
    target.open = true;
    target.scrollIntoView();
    target.querySelector("summary").focus({ preventScroll: true });
  }
}
window.addEventListener("hashchange", openTarget);
document.querySelectorAll('a[href^="#case-"]').forEach((link) => {
  // The same place twice changes no hash, and may have been closed in between.
  link.addEventListener("click", () => setTimeout(openTarget));
});
openTarget();

let opened = [];
window.addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  opened.forEach((details) => { details.open = true; });
});
window.addEventListener("afterprint", () => { opened.forEach((details) => { details.open = false; }); });
