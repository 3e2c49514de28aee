"use strict";
(() => {
  document.documentElement.classList.add("live");
  const body = document.querySelector(".slides tbody");
  const rows = [...body.rows];
  const filter = document.getElementById("filter");
  const shown = document.getElementById("shown");
  const chips = [...document.querySelectorAll(".verdicts button")];
  const apply = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const pressed = chips.filter((chip) => chip.getAttribute("aria-pressed") === "true");
    const marked = pressed.some((chip) => "mark" in chip.dataset);
    const verdicts = pressed.filter((chip) => "verdict" in chip.dataset).map((chip) => chip.dataset.verdict);
    let left = 0;
    for (const row of rows) {
      const text = row.dataset.text.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word)) || (verdicts.length > 0 && !verdicts.includes(row.dataset.verdict)) || (marked && !("marked" in row.dataset));
      if (!row.hidden) left += 1;
    }
    shown.textContent = words.length || pressed.length ? left + " of " + rows.length + " shown" : "";
  };
  filter.addEventListener("input", apply);
  for (const chip of chips) {
    chip.addEventListener("click", () => {
      chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true"));
      apply();
    });
  }
  const heads = [...document.querySelectorAll(".slides th[data-sort]")];
  for (const head of heads) {
    head.querySelector("button").addEventListener("click", () => {
      const numeric = head.dataset.sort === "number";
      const first = numeric ? "descending" : "ascending";
      const second = numeric ? "ascending" : "descending";
      const order = head.getAttribute("aria-sort") === first ? second : first;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const key = (row) => row.cells[head.cellIndex].dataset.key;
      const compare = numeric ? (a, b) => key(a) - key(b) : (a, b) => key(a).localeCompare(key(b), "en", { numeric: true });
      body.append(...[...rows].sort((a, b) => sign * compare(a, b)));
    });
  }
})();
