// Runs in the opened page; returns a list of what is wrong with it.
async () => {
  const faults = [];
  if (window.MathJax) await MathJax.startup.promise;
  document.querySelectorAll("details").forEach((fold) => (fold.open = true));

  // Mathematics
  for (const math of document.querySelectorAll(".math")) {
    if (!math.querySelector("mjx-container")) faults.push(`not typeset: ${math.textContent.slice(0, 80)}`);
  }
  for (const formula of document.querySelectorAll(".math mjx-container")) {
    const box = formula.closest(".math").getBoundingClientRect(); // what lies left of it cannot be scrolled to
    if (formula.getBoundingClientRect().left < box.left - 1) faults.push("a formula is cut off at the left");
  }
  for (const error of document.querySelectorAll("mjx-merror")) {
    faults.push(`mathematics: ${error.getAttribute("data-mjx-error") || error.textContent}`);
  }

  // Raw Markdown or MyST that nothing has read
  const raw = /(^|\n)\s*(`{3,}|:{3,})\{|\{[a-z:]+\}`|\\tag\{|\$\$/;
  const text = document.querySelector("article")?.innerText ?? "";
  if (raw.test(text)) faults.push(`raw source in the text: ${text.match(raw)[0].trim()}`);

  // Pictures
  for (const image of document.images) {
    const name = (image.getAttribute("src") || "").slice(0, 80);
    if (!image.alt.trim()) faults.push(`no text alternative: ${name}`);
    try { await image.decode(); } catch { faults.push(`does not load: ${name}`); }
    const shown = image.width / image.height, own = image.naturalWidth / image.naturalHeight;
    if (image.closest("article") && Math.abs(shown / own - 1) > 0.02) faults.push(`out of shape: ${image.alt}`);
  }

  // Width: the page does not scroll sideways, and nothing is cut off outside a box of its own that scrolls
  const page = document.documentElement;
  if (page.scrollWidth > page.clientWidth) faults.push(`the page scrolls sideways: ${page.scrollWidth} px`);
  const scrolls = (element) => {
    for (let box = element; box && box !== document.body; box = box.parentElement) {
      if (["auto", "scroll"].includes(getComputedStyle(box).overflowX) && !box.matches("main, .bd-main, .bd-content")) return true;
    }
    return false;
  };
  for (const element of document.querySelectorAll("article *")) {
    const box = element.getBoundingClientRect();
    if (box.width && box.right > page.clientWidth + 1 && !element.closest("mjx-assistive-mml") && !scrolls(element)) {
      faults.push(`cut off at the right: <${element.localName}> ${element.textContent.trim().slice(0, 60)}`);
      break;
    }
  }
  for (const image of document.querySelectorAll("article figure img")) {
    if (page.clientWidth < 400 && image.getBoundingClientRect().width < 280) faults.push(`a figure too small: ${image.alt}`);
  }

  // Contrast (WCAG AA): each colour of text against the first opaque background behind it
  const parse = (colour) => (colour.match(/[\d.]+/g) || []).map(Number);
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const over = (top, below) => {
    const alpha = top[3] ?? 1;
    return [0, 1, 2].map((i) => alpha * top[i] + (1 - alpha) * below[i]);
  };
  const background = (element) => {
    const layers = [];
    for (let box = element; box; box = box.parentElement) {
      const colour = parse(getComputedStyle(box).backgroundColor);
      layers.push(colour);
      if ((colour[3] ?? 1) === 1) break;
    }
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  const seen = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    if (element.closest("script, style, svg, dialog, .visually-hidden, mjx-assistive-mml, .node-player img")) continue;
    const style = getComputedStyle(element);
    const below = background(element);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const key = [style.color, below, large].join();
    if (seen.has(key)) continue;
    seen.add(key);
    const [a, b] = [luminance(over(parse(style.color), below)), luminance(below)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < (large ? 3 : 4.5)) {
      faults.push(`contrast ${ratio.toFixed(2)}: ${style.color} on ${below.map(Math.round)} in <${element.localName} class="${element.className}"> ${walker.currentNode.textContent.trim().slice(0, 40)}`);
    }
  }
  return faults;
}
