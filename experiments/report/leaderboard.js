// Filters of the leaderboard: a line is shown where it has all that is chosen. Sorting is that of the page of results.
{
  const filters = document.querySelector(".filters");
  const choices = [...filters.querySelectorAll("select")];
  const shown = document.querySelector("#shown");
  const update = () => {
    const rows = [...document.querySelectorAll("#board tbody tr")];
    for (const row of rows) row.hidden = choices.some((one) => one.value !== "" && row.dataset[one.name] !== one.value);
    shown.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
  };
  for (const one of choices) one.addEventListener("change", update);
  filters.hidden = false;
  update();
}
