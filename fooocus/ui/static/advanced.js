// Small things of the Advanced column and of a job's end: size, seed, what is changed, remedies, reports, the notice.
import { box, el, iconButton, known, listen, read, write } from "./kit.js";

const SEEDS = 2 ** 32;
const stage = () => document.querySelector("#stage .stage");
const value = (name) => known(name) ?? read(name);

class SizePanel extends HTMLElement {
  connectedCallback() {
    const side = (label) => el("input", {
      type: "number", step: 8, min: 64, max: 4096, "aria-label": label, inputmode: "numeric", oninput: () => this.told(),
    });
    [this.wide, this.high] = [side("Width in pixels"), side("Height in pixels")];
    this.says = el("span", { class: "size-says", translate: "no" });
    this.replaceChildren(el("div", { class: "sides" }, this.wide, el("span", { class: "times", "aria-hidden": "true" }, "×"), this.high,
      iconButton("swap", "Turn: width and height change places", () => write("size", `${this.high.value}x${this.wide.value}`)), this.says));
    this.leave = listen("size", () => this.draw());
    this.draw();
    this.out();
  }

  disconnectedCallback() { this.leave(); }

  // Gradio's own box holds the value and is out of everybody's way, also of those who go by keys or listen.
  out() {
    const holder = box("size");
    if (!holder) { setTimeout(() => this.isConnected && this.out(), 200); return; }
    holder.tabIndex = -1;
    holder.setAttribute("aria-hidden", "true");
    this.draw();
  }

  told() {
    write("size", `${this.wide.value}x${this.high.value}`);
    this.say();
  }

  draw() {
    const [wide, high] = value("size").replace(/\s/g, "").split(/[xX×*]/);
    if (this.wide.value !== wide) this.wide.value = wide ?? "";
    if (this.high.value !== high) this.high.value = high ?? "";
    this.say();
  }

  say() {
    const pixels = this.wide.valueAsNumber * this.high.valueAsNumber;
    this.says.textContent = pixels > 0 ? `${(pixels / 1e6).toFixed(2)} MP` : "";
  }
}

// The seed of the picture that is shown, and whether the next one begins with it.
const shownSeed = () => document.querySelector("#stage .caption .seed")?.textContent.trim() ?? "";
const isKept = () => value("seed").trim() !== "" && value("seed").trim() === shownSeed();
const markSeed = () => {
  const button = document.querySelector("[data-keep-seed]");
  const kept = String(isKept());
  if (button && button.getAttribute("aria-pressed") !== kept) button.setAttribute("aria-pressed", kept);
};
listen("seed", markSeed);

class SeedPanel extends HTMLElement {
  connectedCallback() {
    const button = (words, press) => el("button", { type: "button", onclick: press }, words);
    this.random = button("Random", () => write("seed", ""));
    this.fixed = button("Fixed", () => { if (!value("seed")) write("seed", this.last()); });
    this.replaceChildren(el("div", { class: "two", role: "group", "aria-label": "Seed" }, this.random, this.fixed));
    this.leave = listen("seed", () => this.draw());
    this.draw();
  }

  disconnectedCallback() { this.leave(); }

  // The seed of the picture that is shown, or else a new one.
  last() { return shownSeed() || String(Math.floor(Math.random() * SEEDS)); }

  draw() {
    const fixed = value("seed").trim() !== "";
    this.random.setAttribute("aria-pressed", String(!fixed));
    this.fixed.setAttribute("aria-pressed", String(fixed));
  }
}

// The notice when a job is done. It belongs to this browser: another device of the same person may want to be quiet.
const KEPT = "fooocus.notice";
const wishes = () => fooocusStore.local.object(KEPT);
const keep = (wish) => fooocusStore.local.keep(KEPT, { ...wishes(), ...wish });

// Two soft notes, a fifth apart, made here: there is no file to fetch.
const chime = (fine = true) => {
  const audio = new AudioContext();
  const notes = fine ? [659.26, 987.77] : [440, 329.63];
  notes.forEach((pitch, i) => {
    const [tone, volume, begin] = [audio.createOscillator(), audio.createGain(), audio.currentTime + 0.16 * i];
    tone.frequency.value = pitch;
    volume.gain.setValueAtTime(0, begin);
    volume.gain.linearRampToValueAtTime(0.12, begin + 0.02);
    volume.gain.exponentialRampToValueAtTime(0.0001, begin + 0.9);
    tone.connect(volume).connect(audio.destination);
    tone.start(begin);
    tone.stop(begin + 1);
  });
  setTimeout(() => audio.close(), 1500);
};

class NoticePanel extends HTMLElement {
  connectedCallback() {
    const wish = wishes();
    const sound = el("input", { type: "checkbox", checked: wish.sound === true, onchange: () => { keep({ sound: sound.checked }); if (sound.checked) chime(); } });
    this.says = el("p", { class: "field-help", role: "status" });
    const note = el("input", { type: "checkbox", checked: wish.note === true, onchange: () => this.ask(note) });
    this.replaceChildren(
      el("div", { class: "field-head" }, el("div", { class: "field-name" }, el("span", { class: "field-label" }, "When a job is done")),
        el("p", { class: "field-help" }, "On this device, also when the page is in the background.")),
      el("label", { class: "check" }, sound, el("span", {}, "Play a sound")),
      el("label", { class: "check" }, note, el("span", {}, "Show a notification and mark the tab")), this.says);
  }

  async ask(note) {
    keep({ note: note.checked });
    this.says.textContent = "";
    if (!note.checked) return;
    const answer = "Notification" in window ? await Notification.requestPermission() : "denied";
    if (answer !== "granted") this.says.textContent = "This browser shows no notifications for this page; the tab is marked all the same.";
  }
}

let last = { job: "", active: false };
let asked = false; // a job was asked for here, and its end was not seen yet
addEventListener("click", (event) => { if (event.target.closest?.("#go, [data-remedy]")) asked = true; }, true);
addEventListener("keydown", (event) => { if (event.key === "Enter" && !event.shiftKey && event.target.closest?.("#field-prompt")) asked = true; }, true);
const end = (phase) => {
  const { sound, note } = wishes();
  if (sound) chime(phase === "finished");
  if (!note || !document.hidden) return;
  document.body.classList.add("unseen-end");
  document.title = `● ${document.title.replace(/^● /, "")}`;
  if ("Notification" in window && Notification.permission === "granted") {
    const told = new Notification(phase === "finished" ? "The picture is done" : "The job has stopped", { body: stage()?.dataset.title ?? "", icon: "/ui/icon.svg", tag: last.job });
    told.onclick = () => { window.focus(); told.close(); };
  }
};
const follow = () => {
  const now = stage();
  if (!now) return;
  markSeed();
  const active = now.hasAttribute("data-active");
  // A quick job may have come and gone between two frames; an old one that is only shown again has not ended now.
  const ended = !active && (last.job === now.dataset.job ? last.active : asked);
  last = { job: now.dataset.job, active };
  if (!ended || !["finished", "failed"].includes(now.dataset.phase)) return;
  asked = false;
  end(now.dataset.phase);
};
new MutationObserver(follow).observe(document.documentElement, { subtree: true, childList: true, attributes: true, attributeFilter: ["data-phase", "data-active", "data-job"] });
document.addEventListener("visibilitychange", () => { 
  if (document.hidden) return;
  document.body.classList.remove("unseen-end");
  document.title = document.title.replace(/^● /, "");
});

// Reports and remedies of a failed job.
const copy = async (text) => {
  if (navigator.clipboard && window.isSecureContext) {
    try { await navigator.clipboard.writeText(text); return true; } catch { /* the browser asks for another way */ void 0; }
  }
  const area = el("textarea", { class: "copying", readonly: true });
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
};
const report = async (button) => {
  const words = button.textContent;
  let said = "It could not be copied";
  try {
    const answer = await fetch(`/ui/report/${encodeURIComponent(stage().dataset.job)}`);
    if (answer.ok && await copy(await answer.text())) said = "Copied";
  } catch { /* the program has gone: said below */ void 0; }
  button.textContent = said;
  setTimeout(() => { button.textContent = words; }, 2000);
};
const openTab = (tab, field) => {
  if (tab === "prompt") { document.querySelector("#field-prompt textarea")?.focus(); return; }
  const advanced = document.querySelector("#advanced-switch input");
  if (advanced && !advanced.checked) advanced.click();
  document.querySelector(`#tabs [role="tab"][data-tab-id="${tab}"]`)?.click();
  reach(field);
};
// The column and its tab are drawn a moment after they are asked for.
const reach = (field, tries = 40) => {
  const place = document.querySelector(`#place-${field}, #advanced [field="${field}"]`);
  const all = place?.querySelectorAll('.picker-button, input:not([tabindex="-1"]), textarea:not([tabindex="-1"])') ?? [];
  const first = [...all].find((one) => one.checkVisibility());
  if (!first && tries) { setTimeout(reach, 50, field, tries - 1); return; }
  place?.scrollIntoView({ block: "center" });
  first?.focus({ preventScroll: true });
};
let orders = 0;
const remedy = (button) => {
  const what = button.dataset.remedy;
  if (["models", "setting"].includes(what)) { openTab(button.dataset.tab, button.dataset.field); return; }
  if (what === "fetch") document.body.classList.add("models");
  button.disabled = true;
  setTimeout(() => { button.disabled = false; }, 2000);
  write("remedy-ask", JSON.stringify({ do: what, job: stage().dataset.job, number: `${Date.now()}-${++orders}` }));
};

addEventListener("click", (event) => {
  const pressed = (what) => event.target.closest?.(what);
  if (pressed("[data-remedy]")) remedy(pressed("[data-remedy]"));
  if (pressed("[data-report]")) report(pressed("[data-report]"));
  if (pressed("[data-banner-close]")) document.body.classList.add("banner-read");
  if (pressed("[data-keep-seed]")) write("seed", isKept() ? "" : shownSeed());
});

// A field that is refused comes into sight, and what was wrong with it with it.
let refused = "";
new MutationObserver(() => {
  const words = document.querySelector("#problem .problem")?.textContent ?? "";
  if (words === refused) return;
  refused = words;
  if (words) setTimeout(() => document.querySelector("#advanced .wrong")?.scrollIntoView({ block: "center" }), 250);
}).observe(document.documentElement, { subtree: true, childList: true, characterData: true });

// Gradio gives each radio button a name of its own, and another one at each change; with one name for all of a field they
// are the group that browsers know: one stop for Tab, and arrows that choose.
const RADIO = '#advanced fieldset input[type="radio"]';
const group = () => {
  for (const radio of document.querySelectorAll(RADIO)) {
    const name = `one-of-${radio.closest("fieldset").id}`;
    if (radio.name !== name) radio.name = name;
  }
};
new MutationObserver(group).observe(document.documentElement, { subtree: true, childList: true, attributes: true, attributeFilter: ["name"] });
addEventListener("keydown", (event) => {
  if (!["Home", "End"].includes(event.key) || !event.target.matches?.(RADIO)) return;
  const all = [...event.target.closest("fieldset").querySelectorAll(RADIO)].filter((one) => one.checkVisibility());
  const end = all.at(event.key === "Home" ? 0 : -1);
  event.preventDefault();
  end.focus();
  end.click();
});

// Ctrl+Enter generates from every field. What a key does is said where its button is.
addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.target.closest?.("#field-prompt")) {
    event.preventDefault();
    document.querySelector("#go")?.click();
  }
}, true);
const TIPS = { "#go": "Enter; Ctrl+Enter from any field", "#field-prompt textarea": "Enter generates, Shift+Enter begins a new line", "#advanced-switch label": "Esc closes it" };
setInterval(() => {
  for (const [place, words] of Object.entries(TIPS)) {
    const found = document.querySelector(place);
    if (found && found.title === "") found.title = words;
  }
}, 1000);

customElements.define("fooocus-size", SizePanel);
customElements.define("fooocus-seed", SeedPanel);
customElements.define("fooocus-notice", NoticePanel);
