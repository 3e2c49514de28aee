"use strict";
(() => {
  document.documentElement.classList.add("live");
  const told = JSON.parse(document.getElementById("points").textContent);
  const map = document.querySelector(".map > svg");
  const marks = [...map.querySelectorAll(".marks use")];
  const places = marks.map((mark) => [mark.x.baseVal.value, mark.y.baseVal.value]);
  const ring = map.querySelector(".ring");
  const chips = [...document.querySelectorAll(".legend button")];
  const wrong = document.getElementById("wrong");
  const part = (name) => document.getElementById(name);
  const reach = 18;
  let current = -1;

  const show = (index) => {
    if (index === current) return;
    current = index;
    ring.setAttribute("visibility", index < 0 ? "hidden" : "visible");
    part("hint").hidden = index >= 0;
    part("told").hidden = index < 0;
    if (index < 0) return;
    const point = told[index];
    ring.setAttribute("cx", places[index][0]);
    ring.setAttribute("cy", places[index][1]);
    for (const name of ["name", "label", "predicted", "probability"]) part(name).textContent = point[name] ?? "";
    part("label").hidden = part("label-term").hidden = point.label === null;
    part("thumbnail").hidden = point.thumbnail === "";
    if (point.thumbnail !== "") part("thumbnail").src = point.thumbnail;
  };
  const nearest = (x, y) => {
    let best = -1;
    let least = reach * reach;
    for (let i = 0; i < places.length; i += 1) {
      const far = (places[i][0] - x) ** 2 + (places[i][1] - y) ** 2;
      if (far < least && !marks[i].hasAttribute("hidden")) {
        least = far;
        best = i;
      }
    }
    return best;
  };
  map.addEventListener("pointermove", (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(map.getScreenCTM().inverse());
    const found = nearest(at.x, at.y);
    if (found >= 0) show(found); // the last one stays, so that its text can be read and copied
  });
  const apply = () => {
    const shown = new Set(chips.filter((chip) => chip.getAttribute("aria-pressed") === "true").map((chip) => chip.dataset.class));
    for (const mark of marks) {
      mark.toggleAttribute("hidden", !shown.has(mark.dataset.class) || (wrong !== null && wrong.checked && !mark.classList.contains("wrong")));
    }
    if (current >= 0 && marks[current].hasAttribute("hidden")) show(-1);
  };
  for (const chip of chips) {
    chip.addEventListener("click", () => {
      chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true"));
      apply();
    });
  }
  if (wrong !== null) wrong.addEventListener("change", apply);
})();
