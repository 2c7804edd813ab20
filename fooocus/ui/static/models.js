// The Models tab: which files draw. What cannot be chosen is shown with the reason; what has vanished is named.
import { Picker, box, dial, el, follow, head, iconButton, known, listen, named, read, refresh, sign, write } from "./kit.js";

const NONE = "none";
const USES = { base: "base", refiner: "refiner", vae: "vae", loras: "lora" };
const FOLDERS = { base: "checkpoint", refiner: "checkpoint", vae: "vae", loras: "lora" };
const SUFFIX = /\.safetensors$/i;
const stem = (name) => name.split(/[\\/]/).pop().replace(SUFFIX, "");

// A name goes with or without its folder, its suffix and its capitals.
const find = (files, name) => files.find((file) => file.name === name)
  ?? files.find((file) => stem(file.name).toLowerCase() === stem(name).toLowerCase());

const fileOptions = (models, field) => {
  const files = (models?.[USES[field]] ?? []).map((file) => ({ ...file, value: file.name }));
  const given = (models?.given ?? []).map((name) => ({ value: name, title: stem(name), about: "Named when the program was started" }));
  return [...files, ...given];
};

const companions = (models, base) => {
  const own = models?.own ?? {};
  const key = Object.keys(own).find((name) => stem(name).toLowerCase() === stem(base).toLowerCase());
  return (key && own[key]) || { refiner: NONE, loras: [] };
};

// What is said of a chosen file that is not there, and whether it can be fetched.
const lost = (models, field, name) => {
  if (!name || !models || models.looking) return "";
  if ((models.fetchable ?? []).some((one) => stem(one).toLowerCase() === stem(name).toLowerCase())) return "It is not there yet.";
  return "It is not in its folder. Put it there, or choose another.";
};
const fetchButton = (models, name) => {
  const file = (models?.fetchable ?? []).find((one) => stem(one).toLowerCase() === stem(name).toLowerCase());
  return file && el("button", { type: "button", class: "quiet", "data-order": "need", "data-name": file, "data-models": "show" }, "Fetch it");
};

// A panel is drawn when it appears and told of its list and its boxes while it is there.
class Panel extends HTMLElement {
  connectedCallback() {
    this.field = this.getAttribute("field");
    this.dataset.list = this.constructor.list;
    this.build();
    this.leave = [follow(this.constructor.list, (value) => { this.models = value; this.draw(); })];
    for (const name of this.watches()) this.leave.push(listen(name, () => this.draw()));
    this.draw();
  }

  disconnectedCallback() {
    for (const leave of this.leave ?? []) leave();
    this.replaceChildren();
  }
}

class ModelPanel extends Panel {
  static list = "models";

  watches() { return [this.field, "base"]; }

  build() {
    const label = this.getAttribute("label");
    this.picker = new Picker({ label, options: () => this.options(), choose: (value) => { write(this.field, value); this.draw(); } });
    this.extra = el("div", { class: "picker-extra" });
    const again = this.field === "base" && el("button", {
      type: "button", class: "quiet refresh", title: "Look through the folders again",
      onclick: async (event) => {
        const button = event.currentTarget;
        button.disabled = true;
        await refresh("models");
        button.disabled = false;
      },
    }, sign("again"), "Refresh");
    this.append(head(label, this.getAttribute("help"), null, again), this.picker.element, this.extra);
  }

  options() {
    const files = fileOptions(this.models, this.field);
    if (this.field === "refiner") {
      const own = companions(this.models, known("base") ?? read("base")).refiner;
      const says = own === NONE ? "None: the base draws alone" : `The base's own: ${stem(own)}`;
      const doubt = this.isLost(own) && `The base's own is not there yet: ${stem(own)}`;
      return [
        { value: "", title: "Automatic", about: says, doubt, plain: true },
        { value: NONE, title: "None", about: "The base draws every step", plain: true }, ...files];
    }
    if (this.field === "vae") return [{ value: "", title: "Automatic", about: "The one in the base", plain: true }, ...files];
    return files;
  }

  isLost(name) {
    return Boolean(this.models && !this.models.looking && name && name !== NONE && !find(this.models[USES[this.field]], name) && !this.models.given.includes(name));
  }

  draw() {
    const value = known(this.field) ?? read(this.field);
    const options = this.options();
    const file = value && value !== NONE ? find(options.map((one) => ({ ...one, name: one.value })), value) : null;
    this.picker.set(file ? file.value : value, lost(this.models, this.field, value));
    if (!file && value && value !== NONE) this.picker.name.textContent = stem(value);
    this.picker.again();
    const wanted = this.field === "refiner" && !value ? companions(this.models, known("base") ?? read("base")).refiner : value;
    const fetching = this.isLost(wanted) && fetchButton(this.models, wanted);
    this.extra.replaceChildren(...(fetching ? [fetching] : []));
    const empty = this.field === "base" && this.models && !this.models.looking && !this.models.base.length;
    if (empty) this.extra.append(el("p", { class: "field-help" }, "No checkpoint is there yet. Put one into ", named(this.models.folders.checkpoint)));
  }
}

class LoraPanel extends Panel {
  static list = "models";

  watches() { return [this.field, "base", "prompt"]; }

  build() {
    this.own = el("input", { type: "checkbox", onchange: () => this.setOwn(this.own.checked) });
    this.says = el("span", { class: "own-says" });
    this.ownLost = el("div", { class: "own-lost" });
    this.rows = el("div", { class: "lora-rows" });
    this.add = el("button", { type: "button", class: "quiet add", onclick: () => this.addRow() }, sign("plus"), "Add a LoRA");
    this.append(
      head(this.getAttribute("label"), this.getAttribute("help")),
      el("label", { class: "check" }, this.own, el("span", {}, "As the base wants", this.says)),
      this.ownLost, this.rows, this.add);
  }

  get state() {
    try {
      const { own, rows } = JSON.parse(known(this.field) ?? read(this.field));
      return { own: Boolean(own), rows: Array.isArray(rows) ? rows : [] };
    } catch { return { own: true, rows: [] }; }
  }

  save(state, redraw = true) {
    this.saved = JSON.stringify(state);
    write(this.field, this.saved);
    window.fooocusPanels.take([this.field], [this.saved]);
    if (redraw) this.draw();
  }

  setOwn(own) {
    const { rows } = this.state;
    // Who takes over begins with what was there.
    const begin = companions(this.models, known("base") ?? read("base")).loras.map(([name, weight]) => ({ name, weight, on: true }));
    this.save({ own, rows: !own && !rows.length ? begin : rows });
  }

  change(number, change, redraw = true) {
    const { own, rows } = this.state;
    this.save({ own, rows: rows.map((row, i) => (i === number ? { ...row, ...change } : row)) }, redraw);
  }

  addRow() {
    const { rows } = this.state;
    this.save({ own: false, rows: [...rows, { name: "", weight: 1, on: true }] });
    this.rows.lastElementChild?.querySelector(".picker-button")?.click();
  }

  remove(number) {
    const { own, rows } = this.state;
    this.save({ own, rows: rows.filter((_, i) => i !== number) });
    (this.rows.children[Math.min(number, this.rows.children.length - 1)]?.querySelector(".picker-button") ?? this.add).focus();
  }

  draw() {
    const state = this.state;
    this.own.checked = state.own;
    const own = companions(this.models, known("base") ?? read("base")).loras;
    this.says.replaceChildren(...(own.length
      ? own.flatMap(([name, weight], i) => [i ? ", " : " – ", named(`${stem(name)} ${weight}`)]) : [" – ", el("span", {}, "none")]));
    const gone = state.own && this.models && !this.models.looking ? own.find(([name]) => !find(this.models.lora, name)) : null;
    const fetching = gone && fetchButton(this.models, gone[0]);
    this.ownLost.replaceChildren(...(gone ? [el("p", { class: "field-help" }, "It is not there yet.")] : []), ...(fetching ? [fetching] : []));
    this.rows.hidden = state.own;
    const rows = state.own ? [] : state.rows;
    // Rows stay what they are while only a weight or the prompt changes, so that nothing loses the focus.
    const shape = JSON.stringify([rows.map(({ name, on }) => [name, on]), (this.models?.lora ?? []).map((file) => [file.name, file.why])]);
    if (shape !== this.shape || rows.some((row, i) => row.weight !== this.weights?.[i])) {
      this.shape = shape;
      const before = this.pickers ?? [];
      const opened = before.findIndex((picker) => picker.open && picker.element.isConnected);
      const sought = before[opened]?.search.value;
      this.pickers = [];
      this.rows.replaceChildren(...rows.map((row, i) => this.row(row, i)));
      // A file that appears while somebody chooses takes nothing out of their hands.
      if (opened >= 0 && before[opened].value === this.pickers[opened]?.value) this.pickers[opened].show(sought);
    }
    this.weights = rows.map((row) => row.weight);
    this.mark();
  }

  row(row, number) {
    const options = () => [{ value: "", title: "Choose a LoRA", plain: true }, ...fileOptions(this.models, "loras")];
    const picker = new Picker({ label: `LoRA ${number + 1}`, options, empty: "Choose a LoRA", choose: (name) => this.change(number, { name }) });
    const file = row.name && find(fileOptions(this.models, "loras").map((one) => ({ ...one, name: one.value })), row.name);
    this.pickers[number] = picker;
    picker.set(file ? file.value : row.name, lost(this.models, "loras", row.name));
    if (!file && row.name) picker.name.textContent = stem(row.name);
    const on = el("input", {
      type: "checkbox", checked: row.on !== false, "aria-label": `Use LoRA ${number + 1}`, title: "On or off",
      onchange: (event) => {
        this.change(number, { on: event.target.checked });
        this.rows.children[number]?.querySelector("input[type=checkbox]")?.focus();
      },
    });
    const weight = dial({
      label: `Weight of LoRA ${number + 1}`, low: -2, high: 2, step: 0.05, least: -100, widest: 100, value: row.weight,
      told: (value) => { this.weights[number] = value; this.change(number, { weight: value }, false); },
    });
    const words = (file?.words ?? []).map((word) => el("button", { type: "button", class: "word", translate: "no", "data-word": word, onclick: () => this.put(word) }, word));
    const missing = row.name && !file && fetchButton(this.models, row.name);
    return el("div", { class: `lora${row.on === false ? " off" : ""}` },
      el("div", { class: "lora-line" }, on, picker.element, iconButton("close", `Remove LoRA ${number + 1}`, () => this.remove(number))),
      el("div", { class: "lora-more" }, weight,
        words.length > 0 && el("div", { class: "words" }, el("span", { class: "words-name" }, "Listens to"), ...words), missing));
  }

  // A word that a LoRA listens to goes behind what is written; one that is there already is only shown to be.
  put(word) {
    const written = read("prompt");
    if (this.holds(written, word)) return;
    const trimmed = written.replace(/[\s,]+$/, "");
    write("prompt", trimmed ? `${trimmed}, ${word}` : word);
    this.mark();
  }

  holds(text, word) { return text.toLowerCase().includes(word.toLowerCase()); }

  mark() {
    const written = box("prompt") ? read("prompt") : "";
    for (const button of this.rows.querySelectorAll(".word")) {
      const there = this.holds(written, button.dataset.word);
      button.setAttribute("aria-pressed", String(there));
      button.title = there ? "It is in the prompt" : "Put it into the prompt";
    }
  }
}

customElements.define("fooocus-model", ModelPanel);
customElements.define("fooocus-loras", LoraPanel);
