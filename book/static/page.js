// What a page does in the browser: it marks what is wider than its box.
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
  const sizes = new ResizeObserver((entries) => entries.forEach((entry) => markWide(entry.target)));
  document.querySelectorAll("article").forEach((article) => {
    article.querySelectorAll(WIDE).forEach((box) => {
      box.addEventListener("scroll", () => markWide(box), { passive: true });
      sizes.observe(box);
    });
  });
}

document.addEventListener("DOMContentLoaded", async () => {
  await window.MathJax?.startup?.promise;
  watchWide();
});
