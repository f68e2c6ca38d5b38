// Sorting of tables, section by section; without it the page lacks nothing else.
"use strict";
for (const table of document.querySelectorAll("table.sortable, figure.results table")) {
  const heads = [...table.querySelectorAll("thead th")];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      sort(table.tBodies[0], column, up ? 1 : -1);
    });
    head.append(button);
  });
}

function sort(body, column, sign) {
  const sections = [[]];
  for (const row of [...body.rows]) {
    if (row.classList.contains("section")) sections.push([]);
    sections.at(-1).push(row);
  }
  for (const section of sections) {
    const head = section[0]?.classList.contains("section") ? [section.shift()] : [];
    section.sort((one, two) => compare(text(one, column), text(two, column), sign));
    body.append(...head, ...section);
  }
}

function text(row, column) {
  return (row.cells[column]?.textContent ?? "").trim().replaceAll("−", "-");
}

function compare(one, two, sign) {
  const [first, second] = [parseFloat(one), parseFloat(two)];
  if (Number.isNaN(first) !== Number.isNaN(second)) return Number.isNaN(first) ? 1 : -1; // dashes last
  return sign * (Number.isNaN(first) ? one.localeCompare(two) : first - second);
}
