"use strict";
(() => {
  const runs = JSON.parse(document.getElementById("data").textContent);
  const slider = document.getElementById("epoch");
  const epochs = [...new Set(runs.flatMap((run) => run.epochs))].sort((a, b) => a - b);
  const panels = [...document.querySelectorAll(".browser")];
  const percent = (share) => (share === null || share === undefined ? "–" : (100 * share).toFixed(1) + "%");

  // Index of the last epoch that is not after `epoch`; the first, if all are.
  const at = (list, epoch) => Math.max(0, list.findLastIndex((each) => each <= epoch));

  function showRun(panel, run, epoch) {
    const here = at(run.epochs, epoch);
    const cursor = panel.querySelector(".cursor");
    cursor.setAttribute("x1", run.places[here]);
    cursor.setAttribute("x2", run.places[here]);
    const state = panel.querySelector(".state");
    state.textContent = "epoch " + run.epochs[here] + (run.collapsed[here] ? ": collapsed" : "");
    state.classList.toggle("wrong", run.collapsed[here]);
    for (const cell of panel.querySelectorAll("[data-key]")) cell.textContent = percent(run.values[cell.dataset.key][here]);
    if (!run.shown.length) return;
    const shown = at(run.shown, epoch);
    for (const cell of panel.querySelectorAll("[data-row]")) {
      const [label, share, right] = run.predictions[cell.dataset.row][shown][cell.dataset.column];
      cell.querySelector(".tile").style.setProperty("--y", shown);
      const text = cell.querySelector(".prediction");
      text.textContent = (right ? "✓ " : "✗ ") + label;
      text.title = label + ", probability " + share + "%";
      text.className = "prediction " + (right ? "right" : "wrong");
      const small = document.createElement("small");
      small.textContent = share + "%";
      text.append(small);
    }
    const note = panel.querySelector(".shown-epoch");
    note.textContent = run.shown[shown] === run.epochs[here] ? "" : "Pictures of epoch " + run.shown[shown] + ", the nearest before. ";
  }

  function show() {
    const epoch = epochs[slider.value];
    document.getElementById("epoch-number").textContent = epoch;
    slider.setAttribute("aria-valuetext", "epoch " + epoch);
    panels.forEach((panel, number) => showRun(panel, runs[number], epoch));
    for (const button of document.querySelectorAll("[data-epoch]"))
      button.setAttribute("aria-pressed", Number(button.dataset.epoch) === epoch);
  }

  function go(index) {
    slider.value = index;
    show();
  }

  slider.addEventListener("input", show);
  document.getElementById("back").addEventListener("click", () => go(Number(slider.value) - 1));
  document.getElementById("forward").addEventListener("click", () => go(Number(slider.value) + 1));
  for (const button of document.querySelectorAll("[data-epoch]"))
    button.addEventListener("click", () => go(epochs.indexOf(Number(button.dataset.epoch))));
  panels.forEach((panel, number) => {
    const chart = panel.querySelector(".chart"), places = runs[number].places;
    chart.addEventListener("click", (event) => {
      const x = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse()).x;
      const nearest = places.reduce((best, place, i) => (Math.abs(place - x) < Math.abs(places[best] - x) ? i : best), 0);
      go(epochs.indexOf(runs[number].epochs[nearest]));
    });
  });
  show();
})();
