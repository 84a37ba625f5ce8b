"use strict";
// Hides the rows that do not hold what is searched for; what the rows say is only read.
const search = document.getElementById("search");
if (search) {
  const rows = Array.from(document.querySelectorAll("#list tbody tr"), (row) => [row, row.cells[0].textContent.toLowerCase()]);
  const matches = document.getElementById("matches");
  search.addEventListener("input", () => {
    const wanted = search.value.trim().toLowerCase();
    let found = 0;
    for (const [row, text] of rows) {
      row.hidden = !text.includes(wanted);
      found += row.hidden ? 0 : 1;
    }
    matches.textContent = `${found.toLocaleString("en")} of ${rows.length.toLocaleString("en")} documents`;
  });
}
