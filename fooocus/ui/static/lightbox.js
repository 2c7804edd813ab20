// One picture large: zoom, its neighbours, its settings and what can be done with it. And two pictures to be compared.
(() => {
  const { element, button, address, details, actions, say, fault, favourite, remove, copy, restorePicture } = window.fooocusPictures;
  const MOST = 8; // times the fitting size
  const SWIPE_PX = 48;

  // Zoom and pan of the pictures in `frame`, all in the same way: wheel, two fingers, double click, drag, + - 0.
  const zoomer = (frame, pictures, { swipe, tap } = {}) => {
    let scale = 1, x = 0, y = 0;
    const fingers = new Map();
    let begun = null;
    const draw = () => {
      const width = (frame.clientWidth * (scale - 1)) / 2, height = (frame.clientHeight * (scale - 1)) / 2;
      x = Math.max(-width, Math.min(width, x));
      y = Math.max(-height, Math.min(height, y));
      for (const one of pictures()) one.style.transform = scale === 1 ? "" : `translate(${x}px, ${y}px) scale(${scale})`;
      frame.classList.toggle("zoomed", scale > 1);
    };
    // Zoom so that the place under (cx, cy), counted from the middle, stays where it is.
    const zoom = (to, cx = 0, cy = 0) => {
      const next = Math.max(1, Math.min(MOST, to));
      x = cx - ((cx - x) * next) / scale;
      y = cy - ((cy - y) * next) / scale;
      scale = next;
      draw();
    };
    const middle = (event) => {
      const area = event.target.closest("figure")?.getBoundingClientRect() ?? frame.getBoundingClientRect();
      return [event.clientX - area.left - area.width / 2, event.clientY - area.top - area.height / 2];
    };
    frame.addEventListener("wheel", (event) => {
      event.preventDefault();
      zoom(scale * Math.exp(-event.deltaY / 300), ...middle(event));
    }, { passive: false });
    frame.addEventListener("dblclick", (event) => zoom(scale > 1 ? 1 : 2.5, ...middle(event)));
    frame.addEventListener("pointerdown", (event) => {
      if (event.target.closest("button, input")) return;
      fingers.set(event.pointerId, event);
      frame.setPointerCapture(event.pointerId);
      begun = { x: event.clientX, y: event.clientY, scale, distance: distance() };
    });
    const distance = () => {
      const [a, b] = [...fingers.values()];
      return b ? Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY) : 0;
    };
    frame.addEventListener("pointermove", (event) => {
      const before = fingers.get(event.pointerId);
      if (!before) return;
      fingers.set(event.pointerId, event);
      if (fingers.size === 2 && begun.distance) zoom((begun.scale * distance()) / begun.distance);
      else if (scale > 1) { x += event.clientX - before.clientX; y += event.clientY - before.clientY; draw(); }
    });
    const up = (event) => {
      const single = fingers.size === 1 && fingers.has(event.pointerId) && scale === 1;
      fingers.delete(event.pointerId);
      if (!single || !begun || event.type === "pointercancel") return;
      const [dx, dy] = [event.clientX - begun.x, event.clientY - begun.y];
      if (Math.abs(dx) > SWIPE_PX && Math.abs(dx) > 1.5 * Math.abs(dy)) swipe?.(dx < 0 ? 1 : -1);
      else if (Math.hypot(dx, dy) < 6) tap?.();
    };
    frame.addEventListener("pointerup", up);
    frame.addEventListener("pointercancel", up);
    return {
      reset: () => { scale = 1; x = y = 0; draw(); },
      key: (key) => {
        const to = { "+": scale * 1.5, "=": scale * 1.5, "-": scale / 1.5, 0: 1 }[key];
        if (to === undefined) return false;
        zoom(to);
        return true;
      },
    };
  };

  let dialog, frame, image, previous, next, place, side, kit, zoom, download;
  let source = null; // { count(), get(i) }, left(i) when it closes
  let index = 0;
  let now = null; // { picture, favourite, told }
  let turn = 0;

  const build = () => {
    image = element("img", { alt: "", draggable: "false", translate: "no" });
    image.addEventListener("error", () => frame.classList.add("damaged"));
    image.addEventListener("load", () => frame.classList.remove("damaged", "waiting"));
    frame = element("figure", { class: "frame-large" }, image);
    previous = button("left", "Previous picture", () => go(-1), { title: "Previous picture (←)" });
    next = button("right", "Next picture", () => go(1), { title: "Next picture (→)" });
    place = element("span", { class: "place" });
    const close = button("close", "Close", () => dialog.close(), { title: "Close this view (Esc)" });
    kit = actions(() => now);
    download = element("a", { class: "act sign-save", download: "", title: "Download" }, element("span", { class: "words", text: "Download" }));
    const compareWith = button("compare", "Compare", () => {
      const { picture } = now;
      dialog.close();
      window.fooocusHistory.compareWith(picture);
    }, { title: "Compare with another picture (C)" });
    const restoring = element("div", { class: "restoring", role: "group", "aria-label": "Restore settings" },
      element("span", { class: "label", text: "Restore settings" }), kit.settings[0], kit.settings[1]);
    const row = element("div", { class: "acts" }, kit.heart, kit.settings[2], download, compareWith, kit.bin);
    side = { prompt: element("p", { class: "prompt", translate: "no" }), rest: element("div", { class: "rest" }), restoring };
    const panel = element("div", { class: "side" }, side.prompt, restoring, row, side.rest);
    const view = element("div", { class: "view" }, frame, previous, next, element("div", { class: "view-head" }, place, close));
    dialog = element("dialog", { id: "lightbox", class: "pictures", "aria-label": "Picture" }, view, panel);
    zoom = zoomer(frame, () => [image], { swipe: (step) => go(step) });
    dialog.addEventListener("keydown", keys);
    dialog.addEventListener("close", () => { turn += 1; image.removeAttribute("src"); source?.left?.(index); });
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    document.body.append(dialog);
  };

  const keys = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const step = { ArrowLeft: () => go(-1), ArrowRight: () => go(1), f: () => kit.heart.click(),
      Delete: () => kit.bin.click(), c: () => dialog.querySelector(".sign-compare").click() }[key];
    if (step || zoom.key(event.key)) { event.preventDefault(); step?.(); }
  };

  // Show the picture that the index stands on; answers that come too late are of no interest.
  const show = async () => {
    const mine = ++turn;
    zoom.reset();
    const many = source.count();
    previous.disabled = index <= 0;
    next.disabled = index >= many - 1;
    place.textContent = many > 1 ? `${(index + 1).toLocaleString()} of ${many.toLocaleString()}` : "";
    try {
      const entry = await source.get(index);
      if (mine !== turn || !entry) return;
      now = { picture: entry.picture, favourite: Boolean(entry.favourite), told: null };
      frame.classList.add("waiting");
      image.src = address(entry.picture, entry.stamp);
      image.alt = entry.alt || "The picture";
      download.href = address(entry.picture, entry.stamp);
      download.download = entry.picture.split("/")[1];
      mark(now.favourite);
      const told = await details(entry.picture);
      if (mine !== turn) return;
      now.told = told;
      tell(told);
      ahead(index + 1);
      ahead(index - 1);
    } catch (error) {
      if (mine === turn) tell({ trouble: error.message });
    }
  };
  const ahead = async (other) => {
    if (other < 0 || other >= source.count()) return;
    const entry = await source.get(other).catch(() => null);
    if (entry?.stamp) new Image().src = address(entry.picture, entry.stamp);
  };
  const mark = (on) => kit.heart.setAttribute("aria-pressed", String(on));

  const tell = (told) => {
    now && mark(Boolean(told.favourite ?? now.favourite));
    if (told.prompt) image.alt = told.prompt;
    side.prompt.translate = !told.prompt || Boolean(told.trouble);
    side.prompt.textContent = told.trouble ?? (told.values ? told.prompt || "No prompt" : "This picture holds no settings.");
    side.restoring.hidden = !told.values;
    kit.settings[2].hidden = !told.text;
    side.rest.replaceChildren();
    if (told.trouble || !told.picture) return; // nothing is known of it yet
    const list = element("dl", {});
    const pair = (name, value, ids) => list.append(element("dt", { text: name }), element("dd", { text: value, title: ids }));
    const own = (...words) => { pair(...words); list.lastChild.translate = false; };
    if (told.negative) own("Negative prompt", told.negative);
    for (const row of told.rows ?? []) (row[0] === "Performance" ? pair : own)(...row);
    const weight = told.bytes < 1e5 ? `${Math.ceil(told.bytes / 1e3)} kB` : `${(told.bytes / 1e6).toFixed(1)} MB`;
    pair("Picture", `${told.width} × ${told.height}, ${weight}`);
    pair("Saved", `${told.day} ${told.time}`);
    side.rest.append(list);
    for (const words of told.warnings ?? []) side.rest.append(element("p", { class: "warning", text: words }));
    if (!told.json) return;
    side.rest.append(element("details", {}, element("summary", { text: "As JSON" }), element("pre", { text: told.json }),
      element("button", { type: "button", text: "Copy", onclick: () => copy(told.json) })));
  };

  const go = (step) => {
    const to = index + step;
    if (to < 0 || to >= source.count()) return;
    index = to;
    show();
  };

  // A list that only deletions change.
  const fixed = (list) => {
    const gone = new Set();
    const there = () => list.filter((picture) => !gone.has(picture));
    return {
      count: () => there().length,
      get: async (i) => ({ picture: there()[i], stamp: "" }),
      change: (kind, pictures) => { for (const one of pictures) gone[kind === "deleted" ? "add" : "delete"](one); },
    };
  };

  // The list has changed: where a picture has gone, the next one has moved up, or the one before it is the last now.
  const again = () => {
    if (!dialog?.open) return;
    if (!source.count()) { dialog.close(); return; }
    index = Math.min(index, source.count() - 1);
    show();
  };

  const open = (list, at, { left } = {}) => {
    if (!dialog) build();
    source = { ...(Array.isArray(list) ? fixed(list) : list), left };
    index = Math.max(0, at);
    now = null;
    tell({ values: {}, prompt: " " });
    side.restoring.hidden = false;
    if (!dialog.open) dialog.showModal();
    frame.tabIndex = -1;
    frame.focus();
    show();
  };

  addEventListener("fooocus-pictures", ({ detail: { kind, pictures, on } }) => {
    if (!dialog?.open || !now) return;
    if (kind === "favourite" && pictures.includes(now.picture)) { now.favourite = on; if (now.told) now.told.favourite = on; mark(on); }
    if (kind !== "favourite" && source.change) { source.change(kind, pictures); again(); }
  });

  // Compare.
  let pair, halves, slider, differences, both, wide;
  const buildPair = () => {
    halves = [0, 1].map(() => element("img", { alt: "", draggable: "false", translate: "no" }));
    wide = element("div", { class: "pair" }, ...halves.map((one) => element("figure", {}, one)));
    slider = element("input", { type: "range", min: "0", max: "100", value: "50", "aria-label": "How much of each picture is seen",
      oninput: () => cut() });
    const cut = () => {
      wide.style.setProperty("--cut", `${slider.value}%`);
      wide.style.setProperty("--share", slider.value / 100);
    };
    const mode = button("compare", "Slider", () => setMode(!pair.classList.contains("sliding")), { "aria-pressed": "false" });
    const setMode = (sliding) => {
      pair.classList.toggle("sliding", sliding);
      mode.setAttribute("aria-pressed", String(sliding));
      both.reset();
    };
    differences = element("dl", { class: "differences" });
    const close = button("close", "Close", () => pair.close(), { title: "Close this view (Esc)" });
    pair = element("dialog", { id: "compare", class: "pictures", "aria-label": "Compare two pictures" },
      element("div", { class: "bar-top" }, element("h2", { text: "Compare" }), mode, close), wide, slider, differences);
    both = zoomer(wide, () => halves);
    pair.addEventListener("keydown", (event) => { if (event.target !== slider && both.key(event.key)) event.preventDefault(); });
    document.body.append(pair);
  };
  const compare = async (one, other) => {
    if (!pair) buildPair();
    both.reset();
    differences.replaceChildren();
    slider.value = 50;
    slider.dispatchEvent(new Event("input"));
    [one, other].forEach((picture, i) => { halves[i].src = address(picture); });
    pair.showModal();
    try {
      const told = await Promise.all([one, other].map(details));
      const rows = told.map((each) => new Map([["Prompt", each.prompt ?? ""], ["Negative prompt", each.negative ?? ""], ...(each.rows ?? [])]));
      told.forEach((each, i) => { halves[i].alt = each.prompt || "The picture"; });
      const names = [...new Set(rows.flatMap((each) => [...each.keys()]))];
      const unlike = names.filter((name) => rows[0].get(name) !== rows[1].get(name));
      differences.replaceChildren(...unlike.flatMap((name) => [element("dt", { text: name }),
        ...rows.map((each) => element("dd", { text: each.get(name) ?? "–", translate: "no" }))]));
      if (!unlike.length) differences.append(element("dt", { text: "The settings are the same." }));
    } catch (error) {
      fault(error);
    }
  };

  window.fooocusLightbox = { open, again, compare };
})();
