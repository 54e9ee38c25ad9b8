// What a page does in the browser: marks what is wider than its box, shows definitions, enlarges figures.
"use strict";

const WIDE = 'pre, span.math, .text_html, .pst-scrollable-table-container, mjx-container[display="true"]';

function markWide(box) {
  const left = box.scrollLeft, right = box.scrollWidth - box.clientWidth - left;
  const wide = box.scrollWidth > box.clientWidth + 1;
  box.classList.toggle("goes-on", wide);
  box.classList.toggle("goes-on-before", wide && left > 1);
  box.classList.toggle("goes-on-after", wide && right > 1);
  if (wide) box.tabIndex = 0;
}

function watchWide() {
  const boxes = [...document.querySelectorAll("article")].flatMap((article) => [...article.querySelectorAll(WIDE)]);
  const sizes = new ResizeObserver((entries) => entries.forEach((entry) => markWide(entry.target)));
  boxes.forEach((box) => {
    box.addEventListener("scroll", () => markWide(box), { passive: true });
    sizes.observe(box);
  });
  // A font that comes late changes what is in a box, and not the box.
  document.fonts.addEventListener("loadingdone", () => requestAnimationFrame(() => boxes.forEach(markWide)));
  document.fonts.ready.then(() => boxes.forEach(markWide));
}

function showDefinitions() {
  const tip = document.createElement("div");
  let shown = null, timer = 0;
  tip.id = "term-tip";
  tip.setAttribute("role", "tooltip");
  tip.hidden = true;

  function hide() {
    shown?.removeAttribute("aria-describedby");
    shown = null;
    tip.hidden = true;
  }
  function show(link) {
    clearTimeout(timer);
    if (shown === link) return;
    hide();
    shown = link;
    tip.textContent = link.dataset.definition;
    tip.hidden = false;
    link.after(tip);
    tip.style.left = tip.style.top = "0";
    const origin = tip.getBoundingClientRect(), word = link.getClientRects()[0];
    const left = Math.min(word.left, document.documentElement.clientWidth - tip.offsetWidth - 16);
    const above = word.bottom + tip.offsetHeight + 8 > innerHeight && word.top > tip.offsetHeight + 8;
    tip.style.left = `${Math.max(left, 8) - origin.left}px`;
    tip.style.top = `${(above ? word.top - tip.offsetHeight - 4 : word.bottom + 4) - origin.top}px`;
    link.setAttribute("aria-describedby", tip.id);
  }
  const hideSoon = () => { timer = setTimeout(hide, 200); };

  document.querySelectorAll("a.glossary-term[title]").forEach((link) => {
    link.dataset.definition = link.title;
    link.removeAttribute("title");
    let touched = false;
    link.addEventListener("pointerenter", (event) => { if (event.pointerType !== "touch") show(link); });
    link.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") hideSoon(); });
    link.addEventListener("pointerdown", (event) => { touched = event.pointerType === "touch" && shown !== link; });
    link.addEventListener("click", (event) => {
      if (touched) event.preventDefault();  // the first tap shows, the second one follows the link
      if (touched) show(link);
      touched = false;
    });
    link.addEventListener("focus", () => { if (!touched) show(link); });
    link.addEventListener("blur", hideSoon);
  });
  tip.addEventListener("pointerenter", () => clearTimeout(timer));
  tip.addEventListener("pointerleave", hideSoon);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
}

function enlargeFigures() {
  const dialog = document.createElement("dialog");
  dialog.id = "enlarged";
  dialog.setAttribute("aria-label", "Enlarged figure");
  dialog.innerHTML = '<button type="button" class="close">Close</button>';
  dialog.addEventListener("click", (event) => { if (!dialog.lastChild.contains(event.target)) dialog.close(); });
  dialog.addEventListener("close", () => dialog.lastChild.remove());
  document.body.append(dialog);
  document.querySelectorAll("article .cell_output img, article .drawing > svg").forEach((figure) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "enlarge";
    button.setAttribute("aria-haspopup", "dialog");
    figure.replaceWith(button);
    button.append(figure);
    button.addEventListener("click", () => {
      const box = document.createElement("div");
      box.className = ["drawing", "tag_pixels"].filter((kind) => figure.closest(`.${kind}`)).join(" ");
      box.append(figure.cloneNode(true));
      dialog.append(box);
      dialog.showModal();
    });
  });
}

document.addEventListener("DOMContentLoaded", async () => {
  showDefinitions();
  enlargeFigures();
  await window.MathJax?.startup?.promise;
  watchWide();
});
