"use strict";
// Molecules that turn: many on one canvas, and one with a slider through the steps from noise.
(() => {
  const colorscheme = "Jmol";
  const look = { stick: { radius: 0.11, colorscheme }, sphere: { scale: 0.23, colorscheme } };
  const options = { backgroundAlpha: 0, antialias: true, disableFog: true };

  function place(viewer, item) {
    const atoms = item.e.map((elem, k) => {
      const [x, y, z] = item.p[k];
      return { elem, x, y, z, serial: k, bonds: [], bondOrder: [] };
    });
    for (const [a, b, order] of item.b) {
      for (const [one, other] of [[a, b], [b, a]]) {
        atoms[one].bonds.push(other);
        atoms[one].bondOrder.push(order === 4 ? 1.5 : order);
      }
    }
    viewer.addModel().addAtoms(atoms);
    viewer.setStyle({}, look);
  }

  // The wheel scrolls the page, and so does a finger until it taps the stage.
  function tame(stage) {
    const awake = () => stage.classList.contains("awake");
    const unless = (free) => (event) => { if (!free(event)) event.stopImmediatePropagation(); };
    for (const name of ["wheel", "DOMMouseScroll", "mousewheel"]) {
      stage.addEventListener(name, unless((event) => event.ctrlKey), { capture: true });
    }
    for (const name of ["touchstart", "touchmove", "touchend"]) {
      stage.addEventListener(name, unless(awake), { capture: true });
    }
    let start = null;
    stage.addEventListener("pointerdown", (event) => { start = event; });
    stage.addEventListener("pointerup", (event) => {
      const moved = start && Math.hypot(event.clientX - start.clientX, event.clientY - start.clientY);
      if (event.pointerType === "touch" && start && moved < 8) stage.classList.toggle("awake");
    });
  }

  for (const box of document.querySelectorAll(".molecules")) {
    const items = JSON.parse(box.querySelector("script").textContent);
    const stage = box.querySelector(".stage");
    const columns = Math.max(2, Math.min(6, items.length, Math.floor(box.clientWidth / 165)));
    const rows = Math.ceil(items.length / columns);
    box.style.setProperty("--columns", columns);
    box.style.setProperty("--rows", rows);
    try {
      const viewers = $3Dmol.createViewerGrid(stage, { rows, cols: columns, control_all: false }, { ...options });
      items.forEach((item, k) => {
        const viewer = viewers[Math.floor(k / columns)][k % columns];
        place(viewer, item);
        viewer.zoomTo();
        viewer.zoom(1.1);
        viewer.render();
      });
      tame(stage);
      box.viewers = viewers.flat().slice(0, items.length);
    } catch (error) {
      stage.textContent = `Molecules need WebGL, which this browser does not give (${error.message}).`;
    }
  }

  for (const box of document.querySelectorAll(".film.molecule")) {
    const frames = JSON.parse(box.querySelector("script").textContent);
    try {
      const viewer = $3Dmol.createViewer(box.querySelector(".stage"), { ...options });
      let seen = false;
      film(box, frames.length, (k) => {
        viewer.removeAllModels();
        place(viewer, frames[k]);
        if (!seen) {
          viewer.zoomTo();
          viewer.zoom(0.8);
          seen = true;
        }
        viewer.render();
      });
      tame(box.querySelector(".stage"));
      box.viewers = [viewer];
    } catch (error) {
      box.querySelector(".stage").textContent = `Molecules need WebGL (${error.message}).`;
    }
  }
})();
