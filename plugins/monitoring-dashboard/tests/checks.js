// Run in a page by test_browser.py: returns what is wrong with it.
() => {
  const problems = [];
  const start = (e) => e.outerHTML.slice(0, 120);
  const name = (e) => (e.getAttribute("aria-label") || e.getAttribute("aria-labelledby") || e.textContent || "").trim();
  for (const e of document.querySelectorAll("a[href], button")) if (!name(e)) problems.push(`no name: ${start(e)}`);
  for (const e of document.querySelectorAll("[role=img]")) {
    if (!e.getAttribute("aria-label")) problems.push(`no words: ${start(e)}`);
  }
  for (const e of document.querySelectorAll("select, input")) if (!e.labels.length) problems.push(`no label: ${e.name}`);
  for (const e of document.querySelectorAll("[data-chart]")) {
    if (/being loaded$/.test(e.getAttribute("aria-label"))) problems.push(`not told: ${e.id}`);
  }
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  for (const id of new Set(ids)) {
    if (ids.filter((other) => other === id).length > 1) problems.push(`id twice: ${id}`);
  }
  const headings = document.querySelectorAll("h1").length;
  if (headings !== 1) problems.push(`h1: ${headings}`);
  const wide = document.documentElement.scrollWidth;
  if (wide > innerWidth) problems.push(`wider than the window: ${wide}`);

  // The contrast of text with what is behind it, by the formula of WCAG 2.
  const parts = (text) => {
    const numbers = text.match(/[\d.]+/g).map(Number);
    return numbers.length > 3 ? numbers : [...numbers, 1];
  };
  const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parts(getComputedStyle(e).backgroundColor);
      if (colour[3] === 1) return colour;
    }
    return [255, 255, 255, 1];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim();
    const e = walker.currentNode.parentElement;
    if (!text || e.closest("svg, [hidden], script, noscript, .sr, .skip, .off") || !e.checkVisibility()) continue;
    const shades = [luminance(parts(getComputedStyle(e).color)), luminance(behind(e))].sort((x, y) => y - x);
    const ratio = (shades[0] + 0.05) / (shades[1] + 0.05);
    if (ratio < 4.5) problems.push(`contrast ${ratio.toFixed(2)}: ${text.slice(0, 40)}`);
  }
  return problems;
}
