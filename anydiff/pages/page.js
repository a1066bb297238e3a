"use strict";
// Films: a slider through their frames. Pictures: a click enlarges them, and another one puts them back.
function film(box, count, show) {
  const [button, slider, output] = ["button", "input", "output"].map((name) => box.querySelector(name));
  let timer = null;
  const stop = () => { clearInterval(timer); timer = null; button.textContent = "Play"; };
  const go = () => {
    show(Number(slider.value));
    output.textContent = `${Number(slider.value) + 1} of ${count}`;
  };
  slider.addEventListener("input", () => { stop(); go(); });
  button.addEventListener("click", () => {
    if (timer) return stop();
    if (Number(slider.value) === count - 1) slider.value = 0;
    button.textContent = "Stop";
    timer = setInterval(() => {
      slider.value = Number(slider.value) + 1;
      go();
      if (Number(slider.value) === count - 1) stop();
    }, Math.max(50, 4000 / count));
    go();
  });
  go();
}

for (const box of document.querySelectorAll(".film")) {
  const image = box.querySelector("img"), text = box.querySelector("pre");
  if (!image && !text) continue; // it has a script of its own
  const frames = JSON.parse(box.querySelector("script").textContent);
  film(box, frames.length, (k) => { if (image) image.src = frames[k]; else text.textContent = frames[k]; });
}

const large = document.getElementById("large");
for (const image of document.querySelectorAll("img.picture, .tiles img")) {
  image.addEventListener("click", () => {
    const shown = large.querySelector("img");
    shown.src = image.src;
    shown.alt = image.alt;
    shown.className = image.naturalWidth < 128 ? "small" : "";
    large.showModal();
  });
}
large.addEventListener("click", () => large.close());
