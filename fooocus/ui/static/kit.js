// What the panels of the Advanced column share: making elements, hidden boxes, lists of the server, and the picker.
// Names from outside are always put in as text, never as HTML.

export const el = (tag, props = {}, ...inside) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "class") made.className = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...inside.filter((one) => one !== undefined && one !== null && one !== false));
  return made;
};
// A name that a person or a file gave is not to be translated.
export const named = (text, props = {}) => el("span", { translate: "no", ...props }, text);

const SIGNS = {
  close: "M5 5l10 10M15 5L5 15",
  up: "M5 12l5-5 5 5",
  down: "M5 8l5 5 5-5",
  star: "M10 3l2.1 4.6 5 .6-3.700 3.400 1 4.900L10 14l-4.400 2.500 1-4.900L2.900 8.200l5-.6z",
  swap: "M4 7h11l-3-3M16 13H5l3 3",
  plus: "M10 4v12M4 10h12",
  again: "M16 10a6 6 0 1 1-2-4.500M14 2v4h-4",
};
export const sign = (name) => {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("class", `sign ${name}`);
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", SIGNS[name]);
  svg.append(path);
  return svg;
};
export const iconButton = (name, label, onclick, props = {}) =>
  el("button", { type: "button", class: "icon", "aria-label": label, title: label, onclick, ...props }, sign(name));

// Boxes by the name of their field.
export const box = (name) => fooocusBoxes.find(`field-${name}`);
export const read = (name) => fooocusBoxes.read(`field-${name}`);
export const write = (name, value) => { fooocusBoxes.write(`field-${name}`, value); };

const listeners = {};
export const listen = (name, told) => {
  (listeners[name] ??= new Set()).add(told);
  return () => listeners[name].delete(told);
};
const taken = {};
// What the fields held at the start: as the page was made, unless the program has begun with something else.
let made = {}, instead = {};
const beginning = (name, otherwise) => instead[name] ?? otherwise;
// A field that differs shows the way back.
const mark = (name, value) =>
  document.getElementById(`place-${name}`)?.classList.toggle("changed", String(value ?? "") !== String(beginning(name, made[name]) ?? ""));
const began = (text) => {
  instead = JSON.parse(text || "{}");
  for (const name of Object.keys(made)) mark(name, taken[name] ?? made[name]);
};
// Gradio calls this with every value it shows anew, whoever has set it. `begin` holds what the page was made with.
export const take = (names, values, begin = null) => {
  if (begin) made = begin;
  names.forEach((name, i) => {
    if (begin) mark(name, values[i]);
    if (taken[name] === values[i]) return;
    taken[name] = values[i];
    for (const told of listeners[name] ?? []) told(values[i]);
  });
};
export const known = (name) => taken[name];
window.fooocusPanels = Object.assign(window.fooocusPanels ?? {}, { take, began, beginning });

// Lists of the server. Whoever shows one is told of each change while any who shows it can be seen.
const lists = {};
const LOOK_MS = 3000;
const ask = async (name, fresh = false) => {
  const list = lists[name];
  try {
    const answer = await fetch(`/ui/lists/${name}${fresh ? "?fresh" : ""}`);
    if (!answer.ok) return;
    const text = await answer.text();
    const changed = text !== list.text;
    list.text = text;
    if (changed) {
      list.value = JSON.parse(text);
      for (const told of list.told) told(list.value);
    }
  } catch { /* the page says itself when the program has gone */ return; }
};
export const follow = (name, told) => {
  const list = (lists[name] ??= { told: new Set(), text: "", value: null });
  list.told.add(told);
  if (list.value) told(list.value);
  else ask(name);
  return () => list.told.delete(told);
};
export const refresh = (name) => ask(name, true);
const seen = (name) => !document.hidden && document.body.classList.contains("advanced")
  && [...document.querySelectorAll(`[data-list="${name}"]`)].some((one) => one.offsetParent !== null);
const look = () => { for (const name of Object.keys(lists)) if (seen(name)) ask(name); };
setInterval(look, LOOK_MS);
addEventListener("click", (event) => { if (event.target.closest?.('#tabs [role="tab"], #advanced-switch')) setTimeout(look, 60); });

// A field's head: its name, one sentence of help, and what stands at its right end.
export const head = (label, help, id, ...right) =>
  el("div", { class: "field-head" }, el("div", { class: "field-name" }, el("span", { class: "field-label", id }, label), ...right),
    help && el("p", { class: "field-help" }, help));

let pickers = 0;
// A button that opens a list to search in. `options` gives {value, title, about, why, doubt} anew at each opening;
// what has a `why` is shown and cannot be chosen.
export class Picker {
  constructor({ label, labelId, options, choose, empty = "Choose" }) {
    Object.assign(this, { options, choose, empty, id: `picker-${++pickers}`, at: -1, shown: [] });
    this.value = undefined;
    this.name = el("span", { class: "picked" });
    this.about = el("span", { class: "picked-about" });
    this.button = el("button", {
      type: "button", class: "picker-button", "aria-haspopup": "listbox", "aria-expanded": "false", "aria-label": label,
      onclick: () => (this.open ? this.close() : this.show()),
      onkeydown: (event) => { if (["ArrowDown", "ArrowUp"].includes(event.key)) { event.preventDefault(); this.show(); } },
    }, el("span", { class: "picked-words" }, this.name, this.about), sign("down"));
    this.label = label;
    this.search = el("input", {
      type: "text", class: "picker-search", placeholder: "Search", role: "combobox", "aria-expanded": "true",
      "aria-controls": this.id, "aria-autocomplete": "list", "aria-label": label, autocomplete: "off", spellcheck: "false",
      oninput: () => this.fill(), onkeydown: (event) => this.key(event),
    });
    this.list = el("ul", { class: "picker-list", role: "listbox", id: this.id, "aria-label": label });
    this.sheet = el("div", { class: "picker-sheet", hidden: true, "data-escapes": true }, this.search, this.list);
    this.element = el("div", { class: "picker" }, this.button, this.sheet);
    this.element.addEventListener("focusout", (event) => {
      if (this.open && !this.element.contains(event.relatedTarget)) this.close(false);
    });
    this.list.addEventListener("pointerdown", (event) => event.preventDefault()); // the search keeps the focus
    this.list.addEventListener("click", (event) => this.take(event.target.closest("li")));
  }

  get open() { return !this.sheet.hidden; }

  // Show `value`; `lost` says what is wrong when no option stands for it.
  set(value, lost = "") {
    this.value = value;
    const option = this.options().find((one) => one.value === value);
    this.name.textContent = option?.title ?? (value || this.empty);
    const plain = option ? option.plain : !value;
    if (plain) this.name.removeAttribute("translate");
    else this.name.setAttribute("translate", "no");
    const wrong = option ? option.why : value ? lost : "";
    this.about.textContent = wrong || option?.doubt || option?.about || "";
    this.element.classList.toggle("wrong", Boolean(wrong));
    this.button.setAttribute("aria-label", `${this.label}: ${this.name.textContent}${wrong ? `. ${wrong}` : ""}`);
  }

  show(words = "") {
    this.search.value = words;
    this.sheet.hidden = false;
    this.button.setAttribute("aria-expanded", "true");
    this.search.classList.toggle("unseen", this.options().length < 8);
    this.fill();
    this.search.focus({ preventScroll: true });
    this.sheet.scrollIntoView({ block: "nearest" });
  }

  // What is offered has changed while somebody looks at it.
  again() {
    if (!this.open) return;
    const there = this.shown[this.at]?.value;
    this.fill();
    const same = this.shown.findIndex((one) => one.value === there);
    if (same >= 0) this.move(same);
  }

  close(focus = true) {
    this.sheet.hidden = true;
    this.button.setAttribute("aria-expanded", "false");
    if (focus) this.button.focus();
  }

  fill() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    this.shown = this.options().filter((one) => {
      const text = `${one.title} ${one.about ?? ""} ${one.why ?? ""}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
    this.list.replaceChildren(...this.shown.map((one, i) => el("li", {
      role: "option", id: `${this.id}-${i}`, "aria-selected": String(one.value === this.value),
      "aria-disabled": one.why ? "true" : undefined, "data-number": i,
    }, el("span", { class: "option-name", translate: one.plain ? undefined : "no" }, one.title),
    (one.why || one.doubt || one.about) && el("span", { class: "option-about" }, one.why || one.doubt || one.about))));
    if (!this.shown.length) this.list.append(el("li", { class: "nothing", role: "option", "aria-disabled": "true", "aria-selected": "false" }, "Nothing is called so."));
    this.move(Math.max(0, this.shown.findIndex((one) => one.value === this.value)));
  }

  move(to) {
    this.at = this.shown.length ? (to + this.shown.length) % this.shown.length : -1;
    [...this.list.children].forEach((one, i) => one.classList.toggle("at", i === this.at));
    const now = this.list.children[this.at];
    if (this.at >= 0) this.search.setAttribute("aria-activedescendant", now.id);
    else this.search.removeAttribute("aria-activedescendant");
    if (now) this.list.scrollTop = Math.min(Math.max(this.list.scrollTop, now.offsetTop + now.offsetHeight - this.list.clientHeight), now.offsetTop);
  }

  key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8 }[event.key];
    if (step) this.move(Math.abs(step) > 1 ? Math.min(this.shown.length - 1, Math.max(0, this.at + step)) : this.at + step);
    else if (event.key === "Home" && !this.search.value) this.move(0);
    else if (event.key === "End" && !this.search.value) this.move(this.shown.length - 1);
    else if (event.key === "Enter") this.take(this.list.children[this.at]);
    else if (event.key === "Escape") this.close();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  take(line) {
    const option = line && this.shown[Number(line.dataset.number)];
    if (!option || option.why) return;
    this.close();
    this.choose(option.value);
  }
}

// A slider with its number, which may go beyond the slider's ends. `told` hears of each change.
export const dial = ({ label, low, high, step, value, least = low, widest = high, told }) => {
  const slider = el("input", { type: "range", min: low, max: high, step, value, "aria-label": label });
  const number = el("input", { type: "number", step, value, "aria-label": label, min: least, max: widest });
  const fits = () => Number.isFinite(number.valueAsNumber) && number.valueAsNumber >= least && number.valueAsNumber <= widest;
  const paint = () => slider.style.setProperty("--range_progress", `${(100 * (slider.value - low)) / (high - low)}%`);
  slider.addEventListener("input", () => { number.value = slider.value; paint(); told(Number(slider.value)); });
  number.addEventListener("input", () => {
    if (!fits()) return;
    slider.value = number.valueAsNumber;
    paint();
    told(number.valueAsNumber);
  });
  number.addEventListener("change", () => { if (!fits()) number.value = slider.value; });
  paint();
  return el("div", { class: "dial" }, slider, number);
};
