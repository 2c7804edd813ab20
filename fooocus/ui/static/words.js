// The page in the person's language. The server speaks English; here its texts and readable attributes are exchanged for
// those of /ui/words/<language>.json before they are painted, and back, without a reload. A key of that file is the
// English text, with {1}, {2}, ... for what changes; in its translation {1} is put in as it is, {*1} translated first.
// What has no key stays English. What a person wrote is never touched: typed text is no text of the page, and elements
// that show it carry translate="no" (or data-own), as <code> does of itself.
(() => {
  const LANGUAGES = ["en", "de", "es", "zh"];
  const TAGS = { zh: "zh-Hans" };
  const STOPS = { zh: "。" };
  const COLONS = { zh: "：" };
  const COMMA = ["de", "es"]; // where 6.9 GB is 6,9 GB
  const ATTRIBUTES = ["placeholder", "title", "aria-label", "aria-description", "alt", "label"];
  const OWN = '[translate="no"], [data-own]';
  const UNREAD = `${OWN}, title, script, style, textarea, code, pre`;
  const KEPT = "fooocus.language";
  const WEAK = 8; // a pattern with fewer letters of its own says too little to be sure that it is meant
  const REMEMBERED = 2000;
  const IN_STYLES = { // texts that stylesheets write
    "--word-stopping": "Stopping", "--word-deleted": "This picture was deleted.", "--word-unshown": "Cannot be shown",
    "--word-unshowable": "This picture cannot be shown.",
  };

  let language = "en";
  let book = null; // the dictionary in use; null for English
  let titled = ""; // the English title
  const texts = new WeakMap(); // text node -> {english, shown}
  const attributes = new WeakMap(); // element -> {attribute: {english, shown}}
  const missed = new Set(); // what had no translation, for the tests

  // ---- from one text to another

  const HOLE = /\{\*?(\d)\}/g;
  const letters = (text) => text.replace(HOLE, "").replace(/[^\p{L}]/gu, "").length;

  const makeBook = (words) => {
    const patterns = [];
    for (const [key, value] of Object.entries(words)) {
      if (!key.match(HOLE)) continue;
      const escaped = key.replace(/[.*+?^$()|[\]\\/]/g, "\\$&");
      const source = escaped.replace(/\{(\d)\}(\\\.)?/g, (_, hole, dot) => `(?<h${hole}>.*?)${dot ? "\\.(?!\\w)" : ""}`).replace(/[{}](?!>)/g, "\\$&");
      patterns.push({ test: new RegExp(`^${source}$`, "su"), value, start: key.split("{")[0], letters: letters(key) });
    }
    patterns.sort((a, b) => b.letters - a.letters);
    return { exact: new Map(Object.entries(words)), patterns, known: new Map() };
  };

  const number = (text) =>
    COMMA.includes(language) ? text.replace(/(\d)\.(\d+)(?= ?(?:GB|MB|kB|MP|min|h|s|%|×)(?![\p{L}\d]))/gu, "$1,$2") : text;

  const filled = (pattern, match, strict) => {
    let sure = !strict || Object.values(match.groups).every((hole) => hole.length < 80 && /\d|\.\w{2,12}$/.test(hole));
    const shown = pattern.value.replace(HOLE, (mark, which) => {
      const hole = match.groups[`h${which}`];
      if (mark[1] !== "*") return number(hole);
      const [, before, inner, after] = hole.match(/^([\s;]*)(.*?)(\s*)$/su);
      const found = find(inner) ?? find(inner.slice(0, 1).toUpperCase() + inner.slice(1));
      if (found !== null) sure = true;
      return before + (found ?? number(inner)) + after;
    });
    return sure ? shown : null;
  };

  const byPattern = (text, strict) => {
    for (const pattern of book.patterns) {
      if ((pattern.letters < WEAK) !== strict || !text.startsWith(pattern.start)) continue;
      const match = pattern.test.exec(text);
      const shown = match && filled(pattern, match, strict);
      if (shown) return shown;
    }
    return null;
  };

  // Texts that were joined from several are taken apart again; parts without a translation stay as they are.
  const inParts = (text, between) => {
    const parts = text.split(between);
    if (parts.length < 2) return null;
    const found = parts.map((part, i) => (i % 2 ? null : find(part)));
    if (found.every((part) => part === null)) return null;
    return parts.map((part, i) => found[i] ?? number(part)).join("");
  };

  // A label, a colon, and what it is about, which may be a name.
  const byLabel = (text) => {
    const [, label, rest] = text.match(/^(\p{L}[^:]{1,40}): (\S.*)$/su) ?? [];
    const shown = label && book.exact.get(label);
    return shown ? `${shown}${COLONS[language] ?? ": "}${find(rest) ?? rest}` : null;
  };

  // Neighbouring sentences may be one key, so the longest run that has a translation is taken first.
  const bySentences = (text, every) => {
    const parts = text.split(/(?<=[.!?…:])(\s+)/u);
    if (parts.length < 3 || parts.length > 17) return null;
    let shown = "";
    let any = false;
    for (let i = 0; i < parts.length; ) {
      let end = i === 0 ? parts.length - 2 : parts.length;
      let found = null;
      for (; end > i; end -= 2) {
        found = whole(parts.slice(i, end).join(""));
        if (found !== null || end === i + 1) break;
      }
      if (found === null && every) return null;
      any ||= found !== null;
      shown += (found ?? parts[i]) + (parts[end] ?? "");
      i = end + 1;
    }
    return any ? shown : null;
  };

  const whole = (text) => {
    const exact = book.exact.get(text);
    if (exact !== undefined) return exact;
    return byPattern(text, false) ?? (text.length < 160 ? byPattern(text, true) : null);
  };

  const find = (text) => {
    if (!/\p{L}/u.test(text) || text.length > 2000) return null;
    if (book.known.has(text)) return book.known.get(text);
    const exact = book.exact.get(text);
    const several = /[.!?…:]\s/u.test(text);
    let shown = exact ?? inParts(text, /( · | – )/);
    shown ??= several ? bySentences(text, true) : null;
    shown ??= byPattern(text, false) ?? (several ? bySentences(text, false) : null);
    shown ??= text.endsWith(".") && !several ? inParts(text.slice(0, -1), /(; )/)?.concat(STOPS[language] ?? ".") ?? null : null;
    shown ??= /[.!?]$/.test(text) ? null : inParts(text, /(; )/) ?? inParts(text, /(, )/);
    shown ??= text.length < 160 ? byPattern(text, true) : null;
    shown ??= byLabel(text);
    if (book.known.size >= REMEMBERED) book.known.clear();
    book.known.set(text, shown);
    return shown;
  };

  // Return an English text in the person's language.
  const say = (english) => {
    if (!book || !english) return english;
    const [, before, text, after] = english.match(/^(\s*)(.*?)(\s*)$/su);
    const shown = find(text);
    if (shown === null && /\p{L}{3}/u.test(text) && missed.size < 500) missed.add(text);
    return before + (shown ?? number(text)) + after;
  };

  // A title is a state, a dash and what the person wrote, or a number and a state.
  const inTitle = (english) => {
    const [state, ...own] = english.split(" – ");
    if (/^\d+ %$/.test(state) && document.querySelector("#stage .stage")?.dataset.phase === "empty") return say(english);
    return [say(state), ...own].join(" – ");
  };

  // ---- on the page

  const dressText = (node) => {
    const parent = node.parentElement;
    if (!parent || parent.closest(UNREAD)) return;
    const kept = texts.get(node);
    if (!kept && !book) return;
    const english = kept && kept.shown === node.data ? kept.english : node.data;
    const shown = say(english);
    texts.set(node, { english, shown });
    if (node.data !== shown) node.data = shown;
  };

  const dressAttribute = (element, name) => {
    const value = element.getAttribute(name);
    const kept = attributes.get(element) ?? {};
    if (value === null || (!kept[name] && !book) || element.closest(OWN)) return;
    if (name === "label" && element.localName !== "optgroup") return;
    const english = kept[name] && kept[name].shown === value ? kept[name].english : value;
    const shown = say(english);
    attributes.set(element, { ...kept, [name]: { english, shown } });
    if (value !== shown) element.setAttribute(name, shown);
  };

  const dress = (root) => {
    if (root.nodeType === Node.TEXT_NODE) return dressText(root);
    if (root.nodeType !== Node.ELEMENT_NODE) return;
    const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT | NodeFilter.SHOW_ELEMENT);
    for (let node = root; node; node = walker.nextNode()) {
      if (node.nodeType === Node.TEXT_NODE) dressText(node);
      else for (const name of ATTRIBUTES) if (node.hasAttribute(name)) dressAttribute(node, name);
    }
  };

  const dressAll = () => {
    document.documentElement.lang = TAGS[language] ?? language;
    for (const [name, words] of Object.entries(IN_STYLES)) {
      document.documentElement.style.setProperty(name, JSON.stringify(say(words)));
    }
    dress(document.body);
    dressLists();
    if (titled) document.title = inTitle(titled);
  };

  // What a closed list shows is the value of its box, which no observer sees change. While it is in use the box is
  // English, because what is typed there is compared with the list's own texts.
  const boxes = new WeakMap();
  const dressLists = () => {
    for (const box of document.querySelectorAll("#advanced input[role=combobox]")) {
      const kept = boxes.get(box);
      if (box === document.activeElement || (!kept && !book) || box.closest(OWN)) continue;
      const english = kept && kept.shown === box.value ? kept.english : box.value;
      const shown = book?.exact.get(english) ?? english;
      boxes.set(box, { english, shown });
      if (box.value !== shown) box.value = shown;
    }
  };
  let coming = false;
  const dressListsSoon = () => {
    if (coming || !book) return;
    coming = true;
    requestAnimationFrame(() => { coming = false; dressLists(); });
  };
  addEventListener("focusin", ({ target }) => {
    const kept = boxes.get(target);
    if (kept && target.value === kept.shown) target.value = kept.english;
  }, true);
  for (const event of ["focusout", "click", "change", "transitionend"]) addEventListener(event, dressListsSoon, true);

  const offer = () => {
    const choice = document.querySelector("#language select");
    const kept = fooocusStore.local.get(KEPT) ?? "";
    if (choice && choice.value !== kept) choice.value = kept;
  };

  new MutationObserver((records) => {
    for (const record of records) {
      if (record.type === "characterData") dressText(record.target);
      else if (record.type === "attributes") dressAttribute(record.target, record.attributeName);
      else record.addedNodes.forEach(dress);
    }
    offer();
    dressListsSoon();
  }).observe(document.documentElement, {
    subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: ATTRIBUTES,
  });

  // ---- which language

  const wanted = () => {
    const kept = fooocusStore.local.get(KEPT);
    if (LANGUAGES.includes(kept)) return kept;
    const asked = navigator.languages.map((tag) => tag.toLowerCase().split("-")[0]);
    return asked.find((tag) => LANGUAGES.includes(tag)) ?? "en";
  };

  const use = async () => {
    const asked = wanted();
    let fresh = null;
    if (asked !== "en") {
      try {
        fresh = makeBook(await (await fetch(`/ui/words/${asked}.json`)).json());
      } catch {
        fresh = null; // the server is away, or the file is damaged: English is better than nothing
      }
    }
    if (asked !== wanted()) return; // another was chosen meanwhile
    language = fresh ? asked : "en";
    book = fresh;
    missed.clear();
    if (document.body) dressAll();
    delete document.documentElement.dataset.words;
  };

  const choose = (tag) => {
    if (LANGUAGES.includes(tag)) fooocusStore.local.set(KEPT, tag);
    else fooocusStore.local.remove(KEPT);
    return use();
  };
  addEventListener("change", (event) => {
    if (event.target.matches?.("#language select")) choose(event.target.value);
  });

  const title = (english) => {
    titled = english;
    return inTitle(english);
  };
  window.fooocusWords = { say, title, choose, missed, language: () => language };
  if (wanted() !== "en") document.documentElement.dataset.words = "coming"; // page.css hides the page until then
  use();
})();
