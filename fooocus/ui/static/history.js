// The history: every picture by day, however many. Only what can be seen is in the document.
(() => {
  const { element, button, ask, thumbnail, say, fault, favourite, remove, when } = window.fooocusPictures;
  const CHUNK = 60; // pictures of a day that are asked for at a time
  const HEAD = 48; // height of a day's heading
  const GAP = 8;
  const BEYOND = 600; // pixels above and below the window that are kept ready
  const LOOK_MS = 2000;

  let dialog, box, sheet, words, count, chip, dates, models, styles, none, hint; // elements
  let query = { words: "", model: "", style: "", favourite: false };
  let only = ""; // the one day that is shown, or all
  let days = []; // { day, count, stamp, first, top, height }
  let today = "";
  let version = "";
  let total = 0;
  let columns = 1;
  let tile = 160;
  let chunks = new Map(); // "day:number" -> entries, or a promise of them
  let sections = new Map(); // day -> element
  let tiles = new Map(); // index -> button
  let at = 0; // the picture that the keyboard stands on
  let pick = null; // what waits for a second picture
  let asked = 0;
  let looking = 0;

  const parameters = (more = {}) => new URLSearchParams({ ...query, ...more }).toString();

  // Where the n-th picture of all is: its day and its number in it.
  const dayAt = (index) => {
    let low = 0, high = days.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (days[middle].first <= index) low = middle; else high = middle - 1;
    }
    return days[low];
  };
  const load = (day, number) => {
    const key = `${day}:${number}`;
    if (!chunks.has(key)) {
      const promise = ask(`/history/page?${parameters({ day, skip: number * CHUNK, take: CHUNK })}`).then(
        ({ pictures }) => {
          if (chunks.get(key) === promise) chunks.set(key, pictures);
          return pictures;
        },
        (error) => {
          chunks.delete(key);
          throw error;
        },
      );
      chunks.set(key, promise);
    }
    return chunks.get(key);
  };
  const loaded = (index) => {
    const day = dayAt(index);
    const found = day && chunks.get(`${day.day}:${Math.floor((index - day.first) / CHUNK)}`);
    return Array.isArray(found) ? found[(index - day.first) % CHUNK] : undefined;
  };
  const entry = async (index) => {
    const day = dayAt(index);
    const pictures = await load(day.day, Math.floor((index - day.first) / CHUNK));
    return pictures[(index - day.first) % CHUNK];
  };

  const layOut = () => {
    const width = box.clientWidth - 2 * (innerWidth < 768 ? 8 : 24);
    columns = Math.max(3, Math.floor((width + GAP) / (innerWidth < 768 ? 112 : 176)));
    tile = (width - GAP * (columns - 1)) / columns;
    let top = 0, first = 0;
    for (const day of days) {
      day.first = first;
      day.top = top;
      day.height = HEAD + Math.ceil(day.count / columns) * (tile + GAP) + 16;
      first += day.count;
      top += day.height;
    }
    total = first;
    sheet.style.height = `${top}px`;
  };

  const draw = () => {
    if (!dialog?.open) return;
    const from = box.scrollTop - BEYOND, to = box.scrollTop + box.clientHeight + BEYOND;
    const shownDays = new Set(), shown = new Set(), wanted = new Set();
    for (const day of days) {
      if (day.top + day.height < from) continue;
      if (day.top > to) break;
      shownDays.add(day.day);
      const section = sections.get(day.day) ?? addSection(day);
      section.style.top = `${day.top}px`;
      section.style.height = `${day.height}px`;
      section.querySelector(".how-many").textContent = day.count.toLocaleString();
      const row = (y) => Math.floor((y - day.top - HEAD) / (tile + GAP));
      const firstRow = Math.max(0, row(from));
      const last = Math.min(day.count, (row(to) + 1) * columns);
      for (let i = firstRow * columns; i < last; i += 1) {
        shown.add(day.first + i);
        addTile(day, i, section);
        if (!loaded(day.first + i)) wanted.add(`${day.day}:${Math.floor(i / CHUNK)}`);
      }
    }
    for (const [day, section] of sections) if (!shownDays.has(day)) { section.remove(); sections.delete(day); }
    for (const [index, one] of tiles) if (!shown.has(index)) { one.remove(); tiles.delete(index); }
    want(wanted);
  };

  // While somebody flies past thousands, nothing is asked for; when they stop, what they see is.
  let waiting = 0;
  let lastTop = 0;
  const want = (keys) => {
    clearTimeout(waiting);
    const fast = Math.abs(box.scrollTop - lastTop) > 1200;
    lastTop = box.scrollTop;
    if (!keys.size) return;
    waiting = setTimeout(() => {
      for (const key of keys) {
        const cut = key.lastIndexOf(":");
        const promise = load(key.slice(0, cut), Number(key.slice(cut + 1)));
        if (promise instanceof Promise) promise.then(fill, fault);
      }
    }, fast ? 120 : 0);
  };

  const addSection = (day) => {
    const heading = element("h3", {}, element("span", { translate: "no", text: when(day.day, today) }), element("span", { class: "how-many" }));
    const section = element("section", { class: "day", "aria-label": day.day }, heading);
    sheet.append(section);
    sections.set(day.day, section);
    return section;
  };
  const addTile = (day, number, section) => {
    const index = day.first + number;
    let one = tiles.get(index);
    if (!one || one.parentElement !== section) {
      one?.remove();
      one = element("button", { type: "button", class: "tile", tabindex: "-1" });
      tiles.set(index, one);
      section.append(one);
    }
    one.index = index;
    one.style.transform =
      `translate(${(number % columns) * (tile + GAP)}px, ${HEAD + Math.floor(number / columns) * (tile + GAP)}px)`;
    one.style.width = one.style.height = `${tile}px`;
    one.tabIndex = index === at ? 0 : -1;
    dress(one);
  };
  const dress = (one) => {
    const found = loaded(one.index);
    if (one.entry === found) return;
    one.entry = found;
    one.replaceChildren();
    one.classList.remove("damaged");
    if (!found) return;
    one.translate = !found.alt;
    one.setAttribute("aria-label", [found.alt || "A picture without settings", found.time, found.favourite && "Favourite"].filter(Boolean).join(", "));
    const image = element("img", { alt: "", decoding: "async", draggable: "false", src: thumbnail(found) });
    image.addEventListener("error", () => one.classList.add("damaged"));
    one.append(image);
    one.classList.toggle("favourite", found.favourite);
    one.classList.toggle("picked", pick === found.picture);
  };
  const fill = () => { for (const one of tiles.values()) dress(one); };
  const redress = () => { for (const one of tiles.values()) { one.entry = null; dress(one); } };

  // Everything again: another query, other pictures. What is still as it was is kept, and so is the place.
  let newest = null; // the last renewal: who waits for one that it has overtaken waits for it
  const renew = (how) => (newest = renewal(how));
  const renewal = async ({ afresh = false } = {}) => {
    const mine = ++asked;
    if (afresh) chunks = new Map();
    let told, filters;
    try {
      [told, filters] = await Promise.all([ask(`/history/overview?${parameters()}`), ask(`/history/filters?${parameters({ day: only })}`)]);
    } catch (error) {
      if (mine === asked) describe({ trouble: error.message });
      return;
    }
    if (mine !== asked) return newest;
    if (!dialog.open) return;
    fillDates(told);
    listed(models, "All models", filters.models);
    listed(styles, "All styles", filters.styles);
    if (only) told.days = told.days.filter(([day]) => day === only);
    const before = new Map(days.map((day) => [day.day, day]));
    const anchor = box.scrollTop > 8 && !afresh && days.find((day) => day.top + day.height > box.scrollTop);
    const offset = anchor && box.scrollTop - anchor.top;
    const asBefore = !afresh && today === told.today && days.length === told.days.length &&
      told.days.every(([day, count, stamp], i) => days[i].day === day && days[i].count === count && days[i].stamp === stamp);
    version = told.version;
    if (asBefore) {
      describe(told);
      draw();
      return;
    }
    const focused = sheet.contains(document.activeElement);
    today = told.today;
    days = told.days.map(([day, count, stamp]) => ({ day, count, stamp }));
    for (const day of days) {
      const old = before.get(day.day);
      if (old && (old.count !== day.count || old.stamp !== day.stamp)) drop(day.day);
    }
    for (const section of sections.values()) section.remove();
    sections = new Map();
    tiles = new Map();
    layOut();
    const same = anchor && days.find((day) => day.day === anchor.day);
    box.scrollTop = same ? same.top + offset : 0;
    if (afresh) at = 0;
    at = Math.min(at, Math.max(0, total - 1));
    describe(told);
    draw();
    if (focused) tiles.get(at)?.focus({ preventScroll: true });
  };
  const drop = (day) => { for (const key of chunks.keys()) if (key.startsWith(`${day}:`)) chunks.delete(key); };

  const describe = ({ trouble, missing, unread, pictures }) => {
    const filtered = query.words.trim() || query.model || query.style || query.favourite || only;
    const many = total === 1 ? "1 picture" : `${total.toLocaleString()} pictures`;
    count.textContent = trouble ? "" : many;
    hint.textContent = unread ? `Still reading the pictures of earlier days, ${pictures.toLocaleString()} so far.` : "";
    hint.hidden = !unread;
    const empty = trouble
      ? [trouble, element("button", { type: "button", text: "Try again", onclick: () => renew({ afresh: true }) })]
      : missing
        ? ["The outputs folder is not there now. Is its disk connected?"]
        : total
          ? []
          : filtered
            ? ["No picture is like that.", element("button", { type: "button", text: "Show all pictures", onclick: clear })]
            : unread
              ? ["Looking for pictures…"]
              : ["Your pictures will be here, day by day."];
    none.replaceChildren(...empty.map((one) => (typeof one === "string" ? element("p", { text: one }) : one)));
    none.hidden = !empty.length;
    if (trouble) { days = []; layOut(); draw(); }
  };
  const clear = () => {
    query = { words: "", model: "", style: "", favourite: false };
    only = words.value = dates.value = models.value = styles.value = "";
    chip.setAttribute("aria-pressed", "false");
    renew({ afresh: true });
  };

  const look = async () => {
    if (!dialog.open || document.hidden) return;
    try {
      const told = await ask("/history/state");
      if (told.version !== version) await renew();
    } catch {
      return; // said as soon as something is asked for
    }
  };

  // What the other filters leave to choose from, and what is chosen, also where they leave none of it.
  const listed = (select, first, names) => {
    const chosen = select.value;
    const there = !chosen || names.some(([name]) => name === chosen);
    const all = there ? names : [...names, [chosen, 0, select.selectedOptions[0].dataset.title]];
    select.replaceChildren(element("option", { value: "", text: first }),
      ...all.map(([name, many, title = name]) =>
        element("option", { value: name, translate: "no", text: `${title} (${many.toLocaleString()})`, title: title !== name && name, "data-title": title })));
    select.value = chosen;
    select.hidden &&= !all.length; // one that was there stays, or the others would jump
  };

  // The days that have a picture of this kind, by month.
  const fillDates = ({ days: found, today }) => {
    const named = new Intl.DateTimeFormat(document.documentElement.lang || undefined, { year: "numeric", month: "long" });
    const months = new Map();
    for (const [day, many] of only && !found.some(([day]) => day === only) ? [...found, [only, 0]] : found) {
      const month = day.slice(0, 7);
      if (!months.has(month)) months.set(month, element("optgroup", { translate: "no", label: named.format(new Date(`${month}-15`)) }));
      months.get(month).append(element("option", { value: day, text: `${when(day, today)} (${many.toLocaleString()})` }));
    }
    dates.replaceChildren(element("option", { value: "", text: "All days" }), ...months.values());
    dates.value = only;
    dates.hidden = !months.size;
  };

  const build = () => {
    let typing = 0;
    words = element("input", { type: "search", placeholder: "Search in prompts", "aria-label": "Search in prompts",
      autocomplete: "off", spellcheck: "false", oninput: () => {
        clearTimeout(typing);
        typing = setTimeout(() => { query.words = words.value; renew({ afresh: true }); }, 150);
      } });
    chip = button("heart", "Favourites", () => {
      query.favourite = !query.favourite;
      chip.setAttribute("aria-pressed", String(query.favourite));
      renew({ afresh: true });
    }, { "aria-pressed": "false" });
    chip.classList.add("chip");
    const chooser = (name, label) => element("select", { class: "chip", "aria-label": label, hidden: true,
      onchange: (event) => { query[name] = event.target.value; renew({ afresh: true }); } });
    models = chooser("model", "Model");
    styles = chooser("style", "Style");
    dates = element("select", { class: "chip", "aria-label": "Day", hidden: true,
      onchange: () => { only = dates.value; renew({ afresh: true }); } });
    count = element("span", { class: "count", role: "status" });
    hint = element("p", { class: "reading", role: "status", hidden: true });
    none = element("div", { class: "none", hidden: true });
    sheet = element("div", { class: "sheet" });
    box = element("div", { class: "scroll", tabindex: "-1", onscroll: () => requestAnimationFrame(draw) }, sheet);
    const bar = element("div", { class: "bar-top" },
      element("h2", { text: "History" }), words,
      element("div", { class: "chips" }, chip, dates, models, styles), count,
      button("close", "Close", () => dialog.close(), { title: "Close this view (Esc)" }));
    dialog = element("dialog", { id: "history", class: "pictures", "aria-label": "History" }, bar, hint, none, box);
    dialog.addEventListener("close", () => { clearInterval(looking); choose(null); });
    dialog.addEventListener("cancel", (event) => {
      if (event.target === dialog && pick) { event.preventDefault(); choose(null); }
    });
    dialog.addEventListener("click", (event) => {
      const one = event.target.closest(".tile");
      if (one) open(one.index);
    });
    dialog.addEventListener("keydown", keys);
    new ResizeObserver(() => { if (dialog.open) { const top = days.length && box.scrollTop / (sheet.clientHeight || 1); layOut(); box.scrollTop = top * sheet.clientHeight; draw(); } }).observe(box);
    document.body.append(dialog);
  };

  const show = async () => {
    if (!dialog) build();
    if (dialog.open) return;
    dialog.showModal();
    at = 0;
    if (innerWidth < 768) box.focus(); else words.focus();
    looking = setInterval(look, LOOK_MS);
    await renew({ afresh: true });
  };

  // Two pictures side by side: the first is chosen, then the second.
  const choose = (picture) => {
    pick = picture;
    dialog?.classList.toggle("picking", Boolean(pick));
    if (pick) say("Choose the picture to compare it with.", { label: "Cancel", act: () => choose(null), seconds: 60 });
    redress();
  };
  const open = async (index) => {
    at = index;
    if (pick) {
      const [one, other] = [pick, (await entry(index)).picture];
      choose(null);
      window.fooocusPictures.hush();
      if (one !== other) window.fooocusLightbox.compare(one, other);
      return;
    }
    window.fooocusLightbox.open({ count: () => total, get: entry }, index, { left: (where) => stand(where) });
  };

  const stand = (index) => {
    if (!total) return;
    at = Math.max(0, Math.min(total - 1, index));
    const day = dayAt(at);
    const top = day.top + HEAD + Math.floor((at - day.first) / columns) * (tile + GAP);
    if (top - HEAD < box.scrollTop) box.scrollTop = top - HEAD - GAP;
    if (top + tile > box.scrollTop + box.clientHeight) box.scrollTop = top + tile + GAP - box.clientHeight;
    draw();
    tiles.get(at)?.focus({ preventScroll: true });
  };
  // Up and down keep the column, also across days.
  const below = (index, step) => {
    const day = dayAt(index);
    const number = index - day.first, column = number % columns;
    const row = Math.floor(number / columns) + step;
    const rows = Math.ceil(day.count / columns);
    if (row >= 0 && row < rows) return day.first + Math.min(row * columns + column, day.count - 1);
    const next = days[days.indexOf(day) + Math.sign(step)];
    if (!next) return index;
    const nextRow = step > 0 ? 0 : Math.ceil(next.count / columns) - 1;
    return next.first + Math.min(nextRow * columns + column, next.count - 1);
  };
  const keys = (event) => {
    if (event.target === words) {
      if (event.key === "ArrowDown" || event.key === "Enter") { event.preventDefault(); stand(at); }
      return;
    }
    if (event.target.matches("select") || event.ctrlKey || event.metaKey || event.altKey) return;
    const found = loaded(at);
    const page = Math.max(1, Math.floor(box.clientHeight / (tile + GAP)));
    const pages = (step) => { let to = at; for (let i = 0; i < page; i += 1) to = below(to, step); return to; };
    const steps = {
      ArrowLeft: () => stand(at - 1), ArrowRight: () => stand(at + 1),
      ArrowUp: () => stand(below(at, -1)), ArrowDown: () => stand(below(at, 1)),
      PageUp: () => stand(pages(-1)), PageDown: () => stand(pages(1)),
      Home: () => stand(0), End: () => stand(total - 1),
      f: () => found && favourite(found.picture, !found.favourite),
      Delete: () => found && remove(found.picture),
      c: () => found && choose(found.picture),
      "/": () => words.focus(),
    };
    const step = steps[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (step && (event.target.closest(".tile") || event.target === box || event.key === "/")) {
      event.preventDefault();
      step();
    }
  };

  addEventListener("fooocus-pictures", ({ detail: { kind, pictures, on } }) => {
    if (!dialog?.open) return;
    if (kind === "favourite") {
      for (const found of chunks.values()) {
        if (Array.isArray(found)) for (const one of found) if (pictures.includes(one.picture)) one.favourite = on;
      }
      redress();
    } else {
      for (const picture of pictures) drop(picture.split("/")[0]);
      renew().then(() => {
        if (document.querySelector("dialog#lightbox[open]")) window.fooocusLightbox.again();
        else if (document.activeElement !== words) stand(at); // perhaps somebody searches by now
      });
    }
  });
  addEventListener("click", (event) => { if (event.target.closest?.("#history-open")) show(); });
  addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, textarea, select, [contenteditable], dialog");
    if (event.key.toLowerCase() !== "h" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault(); // the search has the focus before the letter would be typed
    show();
  });

  const finding = setInterval(() => {
    const opener = document.querySelector("#history-open");
    if (!opener) return;
    clearInterval(finding);
    opener.title = "All pictures by day (H)";
  }, 200);

  window.fooocusHistory = { show, compareWith: async (picture) => { await show(); choose(picture); } };
})();
