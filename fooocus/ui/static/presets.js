// Presets: one to choose, the present state to keep under a name, one's own to rename and delete, and the way back.
import { Picker, el, follow, head, known, listen, named, refresh, write } from "./kit.js";

const KEPT = "fooocus.preset";
const SETTLED_MS = 400; // after which all boxes show what an answer has set
const FIELDS = ["negative", "styles", "performance", "lines", "size", "count", "format", "steps", "switch", "guidance", "sampler", "schedule",
  "base", "refiner", "loras", "vae", "clip_skip", "size_positive", "size_negative", "size_until"];

class PresetsPanel extends HTMLElement {
  connectedCallback() {
    this.dataset.list = "presets";
    this.id = "field-preset";
    this.asked = 0;
    this.begin = JSON.parse(this.getAttribute("begin") || "{}"); // what the fields held when the page came
    this.presets = [];
    this.kept = fooocusStore.local.object(KEPT);
    this.build();
    this.leave = [
      follow("presets", (value) => { this.presets = value.presets; this.broken = value.problems; this.draw(); }),
      listen("preset-said", (said) => this.hear(said)),
      ...FIELDS.map((name) => listen(name, () => { clearTimeout(this.looking); this.looking = setTimeout(() => this.draw(), SETTLED_MS / 2); })),
    ];
    this.draw();
  }

  disconnectedCallback() {
    for (const leave of this.leave ?? []) leave();
    this.replaceChildren();
  }

  build() {
    const button = (words, onclick, props = {}) => el("button", { type: "button", class: "quiet", onclick, ...props }, words);
    this.picker = new Picker({ label: "Preset", empty: "None chosen", options: () => this.options(), choose: (name) => this.ask("take", { name }) });
    this.save = button("Save as", () => this.form("save"), { title: "Keep the present settings under a name" });
    this.again = button("Save changes", () => this.ask("save", { name: this.kept.name, replace: true }));
    this.rename = button("Rename", () => this.form("rename"));
    this.remove = button("Delete", () => this.form("delete"));
    this.place = el("div", { class: "preset-form" });
    this.says = el("p", { class: "field-help preset-says", role: "status" });
    this.problems = el("div", { class: "list-problems" });
    this.append(
      head("Preset", "Sets everything but the prompt.", null, button("Reset", () => this.ask("reset"), { id: "reset", title: "Back to what the page began with" })),
      this.picker.element, el("div", { class: "preset-buttons" }, this.save, this.again, this.rename, this.remove), this.place, this.says, this.problems);
  }

  options() {
    const line = (one) => ({ value: one.name, title: one.title, about: one.about || (one.own ? "Yours" : ""), plain: !one.own });
    return [...this.presets.filter((one) => one.own), ...this.presets.filter((one) => !one.own)].map(line);
  }

  // What the settings are, to see whether they are still those of the preset.
  print() { return JSON.stringify(FIELDS.map((name) => String(known(name) ?? this.begin[name] ?? ""))); }

  keep(name, settings) {
    this.kept = { name, print: settings };
    fooocusStore.local.keep(KEPT, this.kept);
    this.draw();
  }

  draw() {
    const chosen = this.presets.find((one) => one.name === this.kept.name);
    const changed = Boolean(chosen && this.kept.print && this.kept.print !== this.print());
    this.picker.set(chosen ? chosen.name : "");
    if (chosen && changed) this.picker.about.textContent = "Changed since";
    this.again.hidden = !(chosen?.own && changed);
    this.rename.hidden = this.remove.hidden = !chosen?.own;
    this.problems.replaceChildren(...(this.broken ?? []).map((problem) => el("p", { class: "field-help wrong-words", translate: "no" }, problem)));
  }

  form(kind) {
    const { name } = this.kept;
    const close = () => { this.place.replaceChildren(); ({ save: this.save, rename: this.rename, delete: this.remove })[kind].focus(); };
    const input = kind !== "delete" && el("input", {
      type: "text", maxlength: 80, placeholder: "Name", "aria-label": "Name of the preset", value: kind === "rename" ? name : "", autocomplete: "off", spellcheck: "false",
    });
    const send = () => {
      if (kind === "save") this.ask("save", { name: input.value });
      else if (kind === "rename") this.ask("rename", { name, to: input.value });
      else this.ask("delete", { name });
    };
    const words = { save: "Save", rename: "Rename", delete: "Delete" }[kind];
    const form = el("form", { class: "inline", "data-escapes": true, onsubmit: (event) => { event.preventDefault(); send(); } },
      input || el("p", { class: "field-help" }, "Delete this preset? ", named(name)),
      el("button", { type: "submit", class: "small main" }, words), el("button", { type: "button", class: "small", onclick: close }, "Cancel"));
    form.addEventListener("keydown", (event) => { if (event.key === "Escape") { close(); event.stopPropagation(); } });
    this.says.textContent = "";
    this.place.replaceChildren(form);
    (input || form.querySelector("button")).focus();
    if (kind === "rename") input.select();
  }

  ask(what, more = {}) {
    this.last = { do: what, ...more };
    this.before = this.kept;
    this.says.replaceChildren();
    write("preset-ask", JSON.stringify({ ...this.last, number: ++this.asked }));
  }

  // What was replaced may have been much work, such as a long negative prompt.
  undo(former) {
    const { name } = this.before;
    const button = el("button", { type: "button", class: "quiet", onclick: () => this.ask("undo", { name, former }) }, "Undo");
    this.says.replaceChildren(el("span", {}, "All settings but the prompt were replaced."), " ", button);
  }

  hear(text) {
    let said;
    try { said = JSON.parse(text); } catch { return; }
    if (said.number !== this.asked) return;
    if (said.sentence) {
      // Only where a name is taken by one of the person's own is there something to press.
      const taken = said.do === "save" && /already/.test(said.sentence);
      this.says.replaceChildren(el("span", { class: "wrong-words", role: "alert" }, `${said.sentence} ${said.remedy} `),
        taken ? el("button", { type: "button", class: "quiet", onclick: () => this.ask("save", { name: this.last.name, replace: true }) }, "Replace it") : "");
      return;
    }
    this.place.replaceChildren();
    refresh("presets");
    clearTimeout(this.settling); // what the last answer has set is none of this one's
    if (said.do === "rename" && this.kept.print) { this.keep(said.name, this.kept.print); return; }
    if (said.do === "save") this.says.textContent = "Saved.";
    if (said.former) this.undo(said.former);
    this.kept = { name: said.name, print: "" };
    this.settling = setTimeout(() => this.keep(said.name, this.print()), SETTLED_MS);
    this.draw();
  }
}

customElements.define("fooocus-presets", PresetsPanel);
