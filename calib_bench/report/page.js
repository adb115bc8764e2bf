"use strict";
// Unpacks what is compressed; sorting, filters and folded columns of tables. A live page asks for news.
async function unpack(script) {
  const bytes = Uint8Array.from(atob(script.textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const holder = document.createElement("template");
  holder.innerHTML = await new Response(stream).text();
  script.replaceWith(holder.content);
}

const number = (text) => (text === "" || text === "–" ? NaN : Number(text.replace("−", "-")));

function value(cell) {
  const text = cell.dataset.v ?? (cell.firstChild ? cell.firstChild.textContent : "");
  const n = number(text);
  return Number.isNaN(n) ? (text === "–" ? "" : text) : n;
}

function compare(a, b, down) {
  if (a === "" || b === "") return (a === "") - (b === ""); // what is missing comes last either way
  const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  return down ? -order : order;
}

function sortable(table) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const first = "high" in head.dataset ? "descending" : "ascending";
      const second = first === "ascending" ? "descending" : "ascending";
      const next = now === null ? first : now === first ? second : null;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      if (next === null || (column === 0 && next !== first)) return body.append(...original);
      head.setAttribute("aria-sort", next);
      const down = next === "descending";
      const keyed = original.map((row) => [column === 0 ? JSON.parse(row.dataset.keys) : value(row.cells[column]), row]);
      keyed.sort(([a], [b]) => (Array.isArray(a) ? byName(a, b) : compare(a, b, down)));
      body.append(...keyed.map(([, row]) => row));
    });
  });
}

function byName(a, b) {
  for (let i = a.length - 1; i >= 0; i--) {
    const [x, y] = [a[i], b[i]].map((text) => (Number.isNaN(number(text)) ? text : number(text)));
    const order = compare(x, y, false);
    if (order) return order;
  }
  return 0;
}

function tools(table) {
  const rows = [...table.tBodies[0].rows];
  const bar = document.createElement("div");
  bar.className = "tools";
  const names = (table.tHead.rows[0].cells[0].textContent || "").split(", ");
  const keys = rows.map((row) => JSON.parse(row.dataset.keys));
  const selects = [];
  const show = () =>
    rows.forEach((row, r) => {
      row.hidden = selects.some(([i, select]) => select.value !== "" && keys[r][i] !== select.value);
    });
  if (rows.length > 8)
    names.forEach((name, i) => {
      const values = [...new Set(keys.map((key) => key[i]))];
      if (values.length < 2 || values.length > 40 || values.length === rows.length) return;
      const select = document.createElement("select");
      select.setAttribute("aria-label", name);
      select.append(new Option(`${name}: all`, ""), ...values.map((text) => new Option(text, text)));
      select.addEventListener("change", show);
      selects.push([i, select]);
      bar.append(select);
    });
  const hidden = Number(table.dataset.hidden);
  if (hidden) {
    table.classList.add("brief");
    const button = document.createElement("button");
    const say = () => (button.textContent = table.classList.contains("brief") ? `${hidden} more columns` : "fewer columns");
    button.type = "button";
    button.addEventListener("click", () => say(table.classList.toggle("brief")));
    say();
    bar.append(button);
  }
  if (bar.childNodes.length) table.closest(".scroll").before(bar);
}

function live(version) {
  const ask = async () => {
    try {
      const answer = await fetch("state", { cache: "no-store" });
      if (answer.ok && (await answer.text()) !== version) return location.reload();
    } catch {
      // the server is gone: what is shown stays
    }
    setTimeout(ask, 2000);
  };
  setTimeout(ask, 2000);
}

async function ready(part) {
  for (const script of part.querySelectorAll("script.packed")) await unpack(script);
  for (const table of part.querySelectorAll("table.data")) {
    tools(table);
    sortable(table);
  }
}

for (const part of document.querySelectorAll("section")) ready(part);
for (const link of document.querySelectorAll('a[href^="#"]'))
  link.addEventListener("click", () => {
    const fold = document.getElementById(link.hash.slice(1))?.closest("details");
    if (fold) fold.open = true;
  });
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((fold) => (fold.open = true)));
if (document.documentElement.dataset.live) live(document.documentElement.dataset.live);
