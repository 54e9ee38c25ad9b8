// Readies a page for paper: waits for formulas and images, shrinks what is wider than the sheet, writes the right
// answers of the quiz behind it, and links to every place, since only such places get a name in the PDF.
// Returns the headings: level, text, and the id of the section.
async () => {
  await window.MathJax?.startup?.promise;
  await document.fonts.ready;
  const images = [...document.images];
  images.forEach((image) => { image.loading = "eager"; });
  await Promise.all(images.map((image) => image.decode().catch(() => {})));
  for (const wide of document.querySelectorAll('mjx-container[display="true"], article table')) {
    const room = wide.parentElement.clientWidth, needed = Math.max(wide.scrollWidth, wide.offsetWidth);
    if (needed > room) wide.style.zoom = room / needed;
  }
  const key = [...document.querySelectorAll(".quiz")].map((question, i) => {
    return `${i + 1} ${question.querySelector(".quiz-right summary").textContent.trim()[0]}`;
  });
  if (key.length) [...document.querySelectorAll(".quiz")].at(-1).after(`The right answers: ${key.join(", ")}.`);
  for (const place of document.querySelectorAll("article [id]")) {
    const link = Object.assign(document.createElement("a"), { href: "#" + place.id, hidden: true });
    document.body.append(link);
  }
  return [...document.querySelectorAll("article :is(h1, h2, h3)")].map((heading) => {
    heading.querySelectorAll(".headerlink").forEach((link) => link.remove());
    const text = heading.textContent.replace(/\s+/g, " ").trim();
    return [Number(heading.localName[1]), text, heading.closest("[id]")?.id ?? ""];
  });
}
