"use strict";
// Text of models reaches the page through textContent alone; the policy in the head forbids markup from strings.

const byId = (id) => document.getElementById(id);
const make = (tag, name = "", text = "") => {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== "") element.textContent = text;
  return element;
};

// ---------------------------------------------------------------------------- where a cell comes from

const trail = JSON.parse(byId("trail").textContent);
const dialog = byId("origin");
const titleOf = (kind, name) => byId("names").content.querySelector(`[data-${kind}="${CSS.escape(name)}"]`)?.textContent ?? name;

function fact(list, name, value) {
  list.append(make("dt", "", name), make("dd", "", value));
}

function recordRow(record) {
  const row = make("tr");
  row.append(make("th", "", `${titleOf("arm", record.arm)}, seed ${record.seed}`));
  const add = (label, content) => {
    const cell = make("td");
    cell.dataset.label = label;
    cell.append(content);
    row.append(cell);
    return cell;
  };
  add("value", record.value);
  add("items", String(record.n));
  const link = make("a", "", record.file);
  link.href = record.href;
  add("record file", link).className = "file";
  add("checkpoint", make("code", "", record.checkpoint));
  add("weights (sha256)", make("code", "", record.weights.slice(0, 12))).title = record.weights;
  add("commit", make("code", "", record.commit));
  add("protocol", make("code", "", record.protocol));
  return row;
}

function protocolDetails(hash) {
  const details = make("details");
  details.append(make("summary", "", `Protocol ${hash}`));
  const list = make("dl", "facts");
  for (const [name, value] of Object.entries(trail.protocols[hash])) fact(list, name, value);
  details.append(list);
  return details;
}

function showOrigin(cell) {
  byId("origin-title").textContent = cell.title;
  const facts = byId("origin-facts");
  facts.replaceChildren();
  for (const [name, value] of cell.facts) fact(facts, name, value);
  const records = cell.records.map((at) => trail.records[at]);
  byId("origin-rows").replaceChildren(...records.map(recordRow));
  byId("origin-records").hidden = records.length === 0;
  byId("origin-none").hidden = records.length > 0;
  const hashes = [...new Set(records.map((record) => record.protocol))];
  byId("origin-protocols").replaceChildren(...hashes.map(protocolDetails));
  if (hashes.length === 1) byId("origin-protocols").firstElementChild.open = true;
  const button = byId("origin-answers");
  button.hidden = records.length === 0;
  button.onclick = () => {
    dialog.close();
    const names = new Set(records.map((record) => record.benchmark));
    const played = byId("played");
    if (played && ![...names].some((name) => form.querySelector(`option[value="${CSS.escape(name)}"]`))) {
      for (const details of document.querySelectorAll("details.played")) details.open = true;
      played.scrollIntoView();
      return;
    }
    setFilter({ arm: records[0].arm, benchmark: names.size === 1 ? records[0].benchmark : "" });
    byId("answers").scrollIntoView();
  };
  dialog.showModal();
  dialog.scrollTop = 0;
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-cell]");
  if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
    event.preventDefault();
    showOrigin(trail.cells[Number(link.dataset.cell)]);
  }
});
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
byId("origin-close").addEventListener("click", () => dialog.close());

// ---------------------------------------------------------------------------- sample answers

const WINDOW = 10; // questions in the document at a time
const form = byId("filter");
const list = byId("list");
let data = null; // columns of reports/answers.py, and `of`: the answers of each item, by arm
let images = null;
let found = []; // [item, [answers]] that match the filter
let first = 0;

async function unpack(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i += 1) bytes[i] = binary.charCodeAt(i);
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

async function load() {
  const loaded = await unpack(byId("data").textContent);
  const { item, arm } = loaded.answers;
  loaded.of = loaded.items.id.map(() => []);
  for (let i = 0; i < item.length; i += 1) loaded.of[item[i]][arm[i]] = i;
  loaded.lower = [];
  data = loaded;
}

// Whether a text, named by its position, holds what is searched for (lower case).
function holds(text, wanted) {
  data.lower[text] ??= data.texts[text].toLowerCase();
  return data.lower[text].includes(wanted);
}

// The answers of an item that match, with the one they are held against first where a change is asked for.
function matching(item, filter) {
  const { right, text } = data.answers;
  const base = data.of[item][filter.against];
  const changed = (answer) => {
    if (filter.change === "") return true;
    if (base === undefined || base === answer || right[base] === right[answer]) return false;
    return filter.change === "any" || right[answer] === (filter.change === "gained" ? 1 : 0);
  };
  let answers = data.of[item].filter((answer, arm) => (filter.arm < 0 || filter.arm === arm)
    && (filter.verdict === "" || right[answer] === Number(filter.verdict)) && changed(answer));
  const { question, gold, id, category } = data.items;
  const asked = filter.text === "" || holds(question[item], filter.text) || holds(gold[item], filter.text)
    || id[item].toLowerCase().includes(filter.text) || category[item].toLowerCase().includes(filter.text);
  if (!asked) answers = answers.filter((answer) => holds(text[answer], filter.text));
  return answers.length && filter.change !== "" ? [base, ...answers] : answers;
}

function readFilter() {
  const value = (name) => form.elements[name].value;
  const arm = (name) => data.arms.findIndex(([known]) => known === value(name));
  return { arm: arm("arm"), benchmark: data.benchmarks.indexOf(value("benchmark")), verdict: value("verdict"),
    change: value("change"), against: arm("against"), text: value("text").trim().toLowerCase() };
}

function update() {
  if (!data) return;
  const filter = readFilter();
  found = [];
  let count = 0;
  data.of.forEach((_, item) => {
    if (filter.benchmark >= 0 && data.items.benchmark[item] !== filter.benchmark) return;
    const answers = matching(item, filter);
    if (answers.length) found.push([item, answers]);
    count += answers.length;
  });
  byId("count").textContent = `${count.toLocaleString("en")} answers to ${found.length.toLocaleString("en")} questions`;
  show(0);
}

function show(at) {
  first = Math.max(0, Math.min(at, Math.floor((found.length - 1) / WINDOW) * WINDOW));
  const shown = found.slice(first, first + WINDOW);
  const wanted = form.elements.text.value.trim();
  list.replaceChildren(...shown.map(([item, answers]) => itemCard(item, answers, wanted)));
  const place = shown.length ? `questions ${first + 1} to ${first + shown.length} of ${found.length}` : "nothing matches";
  for (const pager of document.querySelectorAll(".pager")) {
    pager.querySelector("output").textContent = place;
    pager.querySelector("[data-go=back]").disabled = first === 0;
    pager.querySelector("[data-go=on]").disabled = first + WINDOW >= found.length;
  }
}

// A <pre> with every occurrence of `wanted` marked.
function marked(text, wanted) {
  const block = make("pre");
  block.dir = "auto";
  const low = text.toLowerCase();
  const step = wanted.length;
  let from = 0;
  for (let at = step && low.length === text.length ? low.indexOf(wanted.toLowerCase()) : -1; at >= 0;
    at = low.indexOf(wanted.toLowerCase(), from)) {
    block.append(text.slice(from, at), make("mark", "", text.slice(at, at + step)));
    from = at + step;
  }
  block.append(text.slice(from));
  return block;
}

function picture(at) {
  images ??= JSON.parse(byId("images").textContent);
  const [width, height, webp] = images[at];
  const scale = Math.max(width, height) <= 120 ? 2 : 1;
  const image = make("img", scale > 1 ? "tiny" : "");
  Object.assign(image, { width: scale * width, height: scale * height, alt: "the question's image" });
  image.src = `data:image/webp;base64,${webp}`;
  return image;
}

function itemCard(item, answers, wanted) {
  const { benchmark, id, question, gold, category, image } = data.items;
  const card = make("article");
  const header = make("header");
  header.append(make("b", "", titleOf("benchmark", data.benchmarks[benchmark[item]])));
  header.append(make("span", "soft", `item ${id[item]}${category[item] ? ` · ${category[item]}` : ""}`));
  const asked = make("div", "question");
  if (image[item] >= 0) asked.append(picture(image[item]));
  const right = make("p", "soft", "right answer: ");
  right.append(make("code", "", data.texts[gold[item]]));
  asked.append(marked(data.texts[question[item]], wanted), right);
  const given = make("div");
  given.append(...answers.map((answer) => answerBlock(answer, wanted)));
  const body = make("div", "item");
  body.append(asked, given);
  card.append(header, body);
  return card;
}

function answerBlock(answer, wanted) {
  const { arm, right, text, notes } = data.answers;
  const block = make("div", "answer");
  const [name, title, colour] = data.arms[arm[answer]];
  block.dataset.arm = name;
  block.dataset.right = right[answer];
  const header = make("header");
  const dot = make("span", "dot");
  dot.style.setProperty("--arm", colour);
  const who = make("b");
  who.append(dot, title);
  header.append(who, make("span", right[answer] ? "gain" : "loss", right[answer] ? "✓ right" : "✗ wrong"));
  header.append(make("span", "soft", data.texts[notes[answer]]));
  block.append(header, marked(data.texts[text[answer]], wanted));
  return block;
}

function setFilter(values) {
  form.reset();
  for (const [name, value] of Object.entries(values)) form.elements[name].value = value;
  update();
}

let typing = 0;
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("change", (event) => { if (event.target.name !== "text") update(); });
form.addEventListener("reset", () => setTimeout(update));
form.elements.text.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(update, 150); });
document.addEventListener("click", (event) => {
  const go = event.target.closest("[data-go]")?.dataset.go;
  if (!go) return;
  show(first + (go === "on" ? WINDOW : -WINDOW));
  byId("answers").scrollIntoView();
});

load().then(() => {
  form.hidden = false;
  for (const pager of document.querySelectorAll(".pager")) pager.hidden = false;
  byId("waiting").hidden = true;
  update();
  document.documentElement.dataset.ready = "yes";
}).catch((error) => {
  byId("waiting").textContent = `The sample answers cannot be unpacked in this browser (${error.message}).`;
});
