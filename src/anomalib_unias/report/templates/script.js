"use strict";

// Rows without a value stay at the end in both directions.
function compare(a, b, descending) {
  if (a === "" || b === "") return (a === "") - (b === "");
  const numeric = !isNaN(a) && !isNaN(b);
  const order = numeric ? a - b : a.localeCompare(b);
  return descending ? -order : order;
}

for (const heading of document.querySelectorAll(".sortable thead th:not([colspan])")) {
  heading.addEventListener("click", () => {
    const column = heading.cellIndex;
    const descending = heading.getAttribute("aria-sort") === "ascending";
    for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const body = heading.closest("table").tBodies[0];
    const value = (row) => row.cells[column].dataset.value;
    body.append(...[...body.rows].sort((a, b) => compare(value(a), value(b), descending)));
  });
}

document.getElementById("category")?.addEventListener("change", (event) => {
  for (const figure of document.querySelectorAll(".gallery figure")) {
    figure.hidden = event.target.value !== "" && figure.dataset.category !== event.target.value;
  }
});
