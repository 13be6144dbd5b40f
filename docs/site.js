// A click on a column's heading sorts the table by it; a second click sorts the other way round.
document.addEventListener("click", (event) => {
  const heading = event.target.closest(".md-typeset table:not([class]) thead th");
  if (!heading) return;
  const down = heading.getAttribute("aria-sort") === "ascending";
  heading.parentElement.querySelectorAll("th").forEach((each) => each.removeAttribute("aria-sort"));
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = heading.closest("table").tBodies[0];
  const text = (row) => row.cells[heading.cellIndex].textContent;
  const order = (a, b) => text(a).localeCompare(text(b), undefined, { numeric: true }) * (down ? -1 : 1);
  body.append(...[...body.rows].sort(order));
});
// The names of the columns, for site.css on phones.
document.querySelectorAll(".md-typeset table:not([class])").forEach((table) => {
  const names = [...table.querySelectorAll("thead th")].map((heading) => heading.textContent.trim().replace(/\.$/, ""));
  if (names.length < 4) return;
  table.dataset.stacked = "";
  for (const row of table.tBodies[0].rows) {
    [...row.cells].forEach((cell, column) => { if (names[column]) cell.dataset.column = names[column]; });
  }
});
