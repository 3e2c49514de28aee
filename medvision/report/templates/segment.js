"use strict";
(() => {
  document.documentElement.classList.add("live");
  const slider = document.getElementById("opacity");
  if (!slider) return;
  const shown = document.getElementById("opacity-shown");
  const apply = () => {
    for (const layer of document.querySelectorAll("image.classes")) layer.setAttribute("opacity", slider.value / 100);
    shown.textContent = slider.value + " %";
  };
  slider.addEventListener("input", apply);
  apply();
})();
