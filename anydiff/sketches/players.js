"use strict";
// Sketches are drawn when they are clicked, and once when they are first seen.
(() => {
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const draw = (svg) => {
    svg.classList.remove("drawn");
    void svg.getBoundingClientRect(); // or the style would not begin anew
    svg.classList.add("drawn");
  };
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((entry) => entry.isIntersecting)) {
      seen.unobserve(entry.target);
      draw(entry.target);
    }
  }, { threshold: 0.6 });
  for (const svg of document.querySelectorAll(".sketches svg")) {
    if (!calm) seen.observe(svg);
    svg.addEventListener("click", () => draw(svg));
  }
})();
