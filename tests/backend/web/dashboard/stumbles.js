// What a person who reads by ear, by keyboard or with weak eyes would stumble over on this page.
() => {
  const found = [];
  const rgb = text => text.match(/[\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * x + .7152 * y + .0722 * z;
  };
  const ground = node => {
    for (; node; node = node.parentElement) {
      const colour = rgb(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const shown = node => node.checkVisibility() && node.getBoundingClientRect().right > 0;
  for (const details of document.querySelectorAll("details")) details.open = true;
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const node = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !shown(node)) continue;
    const style = getComputedStyle(node);
    const svg = node.closest("svg");
    const a = light(rgb(svg ? style.fill : style.color)), b = light(ground(node));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    const large = parseFloat(style.fontSize) >= 24;
    if (ratio < (large ? 3 : 4.5)) found.push(`contrast ${ratio.toFixed(1)}: ${node.textContent.trim().slice(0, 40)}`);
  }
  for (const node of document.querySelectorAll("a[href], button, select, input:not([type=hidden]), summary, progress, [role=img], [role=region]")) {
    const name = node.getAttribute("aria-label") || node.textContent.trim() || node.querySelector("img")?.alt
      || (node.labels || [])[0]?.textContent.trim();
    if (!name) found.push(`no name: ${node.outerHTML.slice(0, 80)}`);
  }
  for (const node of document.querySelectorAll("img:not([alt])")) found.push(`no alt: ${node.src}`);
  const levels = [...document.querySelectorAll("h1, h2, h3, h4")].map(node => Number(node.tagName[1]));
  if (levels.filter(level => level === 1).length !== 1) found.push("not one h1");
  levels.forEach((level, place) => { if (place && level > levels[place - 1] + 1) found.push(`h${level} after h${levels[place - 1]}`); });
  const ids = [...document.querySelectorAll("[id]")].map(node => node.id);
  for (const id of new Set(ids)) if (ids.filter(other => other === id).length > 1) found.push(`id twice: ${id}`);
  for (const node of document.querySelectorAll("[aria-labelledby]")) {
    if (!document.getElementById(node.getAttribute("aria-labelledby"))) found.push(`labelled by nothing: ${node.tagName}`);
  }
  for (const table of document.querySelectorAll("table")) {
    if (!table.querySelector("th[scope]")) found.push("a table without headers");
  }
  for (const node of document.querySelectorAll("ul, ol")) {
    if ([...node.children].some(child => child.tagName !== "LI")) found.push("a list with other than items");
  }
  if (document.documentElement.lang !== "en") found.push("no language");
  if (document.querySelectorAll("main").length !== 1) found.push("not one main");
  const { scrollWidth, clientWidth } = document.documentElement;
  if (scrollWidth > clientWidth) found.push(`${scrollWidth} px wide in ${clientWidth}`);
  return found;
}
