"use strict";
// A drawing tells below itself what is under the pointer, or has the focus.
for (const drawing of document.querySelectorAll("svg.network")) {
  const told = drawing.parentElement.querySelector("output");
  const tell = (event) => {
    const block = event.target.closest("[data-detail]");
    if (block) told.textContent = block.dataset.detail;
  };
  for (const name of ["pointerover", "focusin", "click"]) drawing.addEventListener(name, tell);
}
// Paper cannot be unfolded.
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
});
