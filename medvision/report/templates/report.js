"use strict";
(() => {
  document.documentElement.classList.add("live");
  const heat = document.getElementById("heat");
  const slider = document.getElementById("opacity");
  if (heat && slider) {
    const shown = document.getElementById("opacity-shown");
    const apply = () => {
      heat.setAttribute("opacity", slider.value / 100);
      shown.textContent = slider.value + " %";
    };
    slider.addEventListener("input", apply);
    apply();
  }
  const outlines = document.getElementById("outlines-on");
  if (outlines) {
    outlines.addEventListener("change", () => {
      for (const part of document.querySelectorAll(".drawn")) part.classList.toggle("hidden", !outlines.checked);
    });
  }
})();
