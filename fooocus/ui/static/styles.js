// The Styles tab: those that are chosen in their order, each with its strength, and cards of all to choose from.
import { dial, el, follow, head, iconButton, known, listen, named, read, write } from "./kit.js";

const ASK_MS = 250;

// Favourites are kept like all settings: in this browser, and on the server for the same person's other devices.
const favourites = () => {
  try { return new Set(JSON.parse(known("loved") || read("loved") || "[]").map(String)); } catch { return new Set(); }
};
const split = (reference, byName) => {
  if (byName.has(reference)) return [reference, 1];
  const found = reference.match(/^(.*):\s*(\d{1,2}(?:\.\d{0,6})?)\s*$/s);
  return found ? [found[1], Number(found[2])] : [reference, 1];
};
const join = (name, strength) => (strength === 1 ? name : `${name}:${Number(strength.toFixed(2))}`);
const same = (one, other) => one.replace(/[-_\s]+/g, " ").trim().toLowerCase() === other.replace(/[-_\s]+/g, " ").trim().toLowerCase();

class StylesPanel extends HTMLElement {
  connectedCallback() {
    this.field = this.getAttribute("field");
    this.dataset.list = "styles";
    this.byName = new Map();
    this.build();
    this.leave = [
      follow("styles", (value) => this.learn(value)),
      listen("loved", () => { if (this.list) { this.deal(); this.draw(); } }),
      ...[this.field, "prompt", "negative", "seed"].map((name) => listen(name, () => (name === this.field ? this.draw() : this.askText()))),
    ];
    this.draw();
  }

  disconnectedCallback() {
    for (const leave of this.leave ?? []) leave();
    this.replaceChildren();
  }

  build() {
    this.chosen = el("ol", { class: "chosen", "aria-label": "Chosen styles, in their order" });
    this.none = el("p", { class: "field-help none" }, "No style: the prompt is taken as it is.");
    this.search = el("input", {
      type: "search", placeholder: "Search styles", "aria-label": "Search styles", class: "search", autocomplete: "off", spellcheck: "false",
      oninput: () => this.filter(),
      onkeydown: (event) => { if (event.key === "Escape" && this.search.value) { this.search.value = ""; this.filter(); event.stopPropagation(); } },
    });
    this.count = el("p", { class: "field-help count", role: "status" });
    this.cards = el("div", { class: "cards" });
    this.problems = el("div", { class: "list-problems" });
    this.append(head(this.getAttribute("label"), this.getAttribute("help")), this.chosen, this.none);
    this.finder = el("div", { class: "finder" }, this.search, this.count);
    document.querySelector("fooocus-cards")?.show(this);
  }

  learn(value) {
    this.list = value;
    this.byName = new Map(value.styles.map((style) => [style.name, style]));
    this.byName.set(value.random, { name: value.random, title: "Random style", family: "", about: "Another one for each picture, drawn by its seed." });
    this.deal();
    this.draw();
    this.problems.replaceChildren(...value.problems.map((problem) => el("p", { class: "field-help wrong-words", translate: "no" }, problem)));
  }

  get references() {
    try {
      const found = JSON.parse(known(this.field) ?? read(this.field));
      return Array.isArray(found) ? found.map(String) : [];
    } catch { return []; }
  }

  save(references) {
    const text = JSON.stringify(references);
    write(this.field, text);
    window.fooocusPanels.take([this.field], [text]);
  }

  style(name) { return this.byName.get(name) ?? [...this.byName.values()].find((style) => same(style.name, name)); }

  // Cards of all styles, favourites first.
  deal() {
    const loved = favourites();
    const groups = new Map();
    if (this.list.styles.length) groups.set("", [this.byName.get(this.list.random)]);
    const liked = this.list.styles.filter((style) => loved.has(style.name));
    if (liked.length) groups.set("Favourites", liked);
    for (const style of this.list.styles) {
      if (loved.has(style.name)) continue;
      if (!groups.has(style.family)) groups.set(style.family, []);
      groups.get(style.family).push(style);
    }
    this.cards.replaceChildren(...[...groups].map(([family, styles]) => el("section", { class: "family", "aria-label": family || undefined },
      family && el("h3", {}, family), el("div", { class: "grid" }, ...styles.map((style) => this.card(style, loved))))));
    this.filter();
  }

  card(style, loved) {
    const random = style.name === this.list.random;
    const about = el("span", { class: "card-about", translate: random ? undefined : "no" }, style.about);
    const pick = el("button", {
      type: "button", class: "card", "data-style": style.name, "aria-pressed": "false", title: style.about, translate: random ? undefined : "no", onclick: () => this.toggle(style.name),
    }, random ? el("span", { class: "card-name" }, style.title) : named(style.title, { class: "card-name" }), about);
    const star = !random && iconButton("star", `Favourite: ${style.title}`, () => this.love(style.name), {
      "aria-pressed": String(loved.has(style.name)), "data-star": style.name, class: "icon star-button",
    });
    return el("div", { class: "card-place", "data-text": `${style.title} ${style.name} ${style.family} ${style.about}`.toLowerCase() }, pick, star);
  }

  love(name) {
    const loved = favourites();
    if (!loved.delete(name)) loved.add(name);
    const text = JSON.stringify([...loved]);
    write("loved", text);
    window.fooocusPanels.take(["loved"], [text]); // the box tells it later; the cards are dealt now
    [...this.cards.querySelectorAll("[data-star]")].find((one) => one.dataset.star === name)?.focus();
  }

  filter() {
    this.search.toggleAttribute("data-escapes", this.search.value !== "");
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const place of this.cards.querySelectorAll(".card-place")) {
      place.hidden = !words.every((word) => place.dataset.text.includes(word));
      shown += place.hidden ? 0 : 1;
    }
    for (const family of this.cards.children) family.hidden = !family.querySelector(".card-place:not([hidden])");
    this.count.textContent = !words.length ? "" : shown ? `${shown} found` : "No style is called so.";
  }

  toggle(name) {
    const references = this.references;
    const without = references.filter((one) => !same(split(one, this.byName)[0], name));
    this.save(without.length < references.length ? without : [...references, name]);
    this.draw();
  }

  move(from, to) {
    const references = this.references;
    const [moved] = references.splice(from, 1);
    references.splice(to, 0, moved);
    this.save(references);
    this.draw();
    const line = this.chosen.children[to];
    (line?.querySelector(to < from ? ".move-up" : ".move-down") ?? line?.querySelector("button"))?.focus();
    if (line?.querySelector(":focus:disabled") || document.activeElement === document.body) line.querySelector("button:not(:disabled)")?.focus();
  }

  draw() {
    const references = this.references;
    const uses = references.map((one) => split(one, this.byName));
    this.none.hidden = references.length > 0;
    const shape = JSON.stringify([uses.map(([name]) => name), this.byName.size]);
    if (shape !== this.shape || !uses.every(([, strength], i) => strength === this.strengths[i])) {
      this.shape = shape;
      this.strengths = uses.map(([, strength]) => strength);
      this.chosen.replaceChildren(...uses.map(([name, strength], i) => this.line(name, strength, i, uses.length)));
    }
    for (const card of this.cards.querySelectorAll(".card")) {
      const place = uses.findIndex(([name]) => same(name, card.dataset.style));
      card.setAttribute("aria-pressed", String(place >= 0));
    }
    this.askText();
  }

  line(name, strength, number, all) {
    const style = this.style(name);
    const random = this.list && name === this.list.random;
    const title = style?.title ?? name;
    const lost = this.list && !style;
    const strongest = this.list?.strongest ?? 4;
    const weigh = !random && !lost && dial({
      label: `Strength of ${title}`, low: 0, high: 2, step: 0.05, widest: strongest, value: strength,
      told: (value) => {
        const references = this.references;
        this.strengths[number] = Math.max(0, Number(value.toFixed(2)));
        references[number] = join(name, this.strengths[number]);
        this.save(references);
        this.askText();
      },
    });
    return el("li", { class: lost ? "wrong" : "" },
      el("div", { class: "chosen-line" },
        random ? el("span", { class: "chosen-name" }, title) : named(title, { class: "chosen-name", title: style?.name ?? name }),
        all > 1 && iconButton("up", `Earlier: ${title}`, () => this.move(number, number - 1), { disabled: number === 0, class: "icon move-up" }),
        all > 1 && iconButton("down", `Later: ${title}`, () => this.move(number, number + 1), { disabled: number === all - 1, class: "icon move-down" }),
        iconButton("close", `Take out the style ${title}`, () => {
          this.save(this.references.filter((_, i) => i !== number));
          this.draw();
          (this.chosen.children[Math.min(number, this.chosen.children.length - 1)]?.querySelector("button") ?? this.search).focus();
        })),
      weigh, lost && el("p", { class: "field-help wrong-words" }, "This style is not there any more."));
  }

  // What the styles make of the prompt is asked of the server, which alone knows; only while somebody looks.
  askText() {
    clearTimeout(this.asking);
    this.asking = setTimeout(() => {
      if (this.offsetParent === null) return;
      write("styled-ask", JSON.stringify({ prompt: read("prompt"), negative: read("negative"), styles: this.references, seed: read("seed") }));
    }, ASK_MS);
  }
}

// The tab is drawn while hidden; what it says of the prompt is asked for when it is opened.
addEventListener("click", (event) => {
  if (event.target.closest?.('#tabs [role="tab"], #advanced-switch')) setTimeout(() => document.querySelector("fooocus-styles")?.askText(), 50);
});

// Where the cards lie: below what the server says of the chosen ones, which stands between the two.
class CardsPlace extends HTMLElement {
  connectedCallback() { const panel = document.querySelector("fooocus-styles"); if (panel?.finder) this.show(panel); }

  show(panel) { this.replaceChildren(panel.finder, panel.cards, panel.problems); }
}

customElements.define("fooocus-styles", StylesPanel);
customElements.define("fooocus-cards", CardsPlace);
