// What everything about finished pictures shares: asking the server, marks, deleting with a way back, copying, and
// putting a picture's settings into the page. Texts reach the document as text only.
(() => {
  const UNDO_SECONDS = 12;

  // element("button", { class: "x", onclick: f, text: "Words" }, child, ...)
  const element = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === undefined || value === null || value === false) continue;
      if (name === "text") made.textContent = value;
      else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  };

  const button = (sign, words, act, more = {}) => {
    const shown = element("span", { class: "words", text: words });
    const tip = { title: more.title ?? words };
    return element("button", { type: "button", class: `act sign-${sign}`, onclick: act, ...tip, ...more }, shown);
  };

  const ask = async (path, body) => {
    const order = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
    let answer;
    try {
      answer = await fetch(path, body === undefined ? {} : order);
    } catch {
      throw new Error("The program does not answer. Look whether its window is still open, then try again.");
    }
    return told(answer);
  };
  const told = async (answer) => {
    const words = await answer.json().catch(() => ({}));
    if (answer.ok) return words;
    throw new Error([words.sentence ?? "That did not work.", words.remedy].filter(Boolean).join(" "));
  };

  const address = (picture, stamp) => `/pictures/${encodeURI(picture)}${stamp ? `?v=${stamp}` : ""}`;
  const thumbnail = (entry) => `/thumbnails/${encodeURI(entry.picture)}?v=${entry.stamp}`;
  const pictureOf = (url) => {
    const found = /^\/pictures\/([^/?#]+)\/([^/?#]+)/.exec(new URL(url, location.href).pathname);
    return found && new URL(url, location.href).origin === location.origin ? `${found[1]}/${found[2]}` : "";
  };

  // Others learn by this event what became of a picture: { kind, pictures, on }.
  const tell = (detail) => dispatchEvent(new CustomEvent("fooocus-pictures", { detail }));

  // One quiet line at the lower edge; it lies in the topmost dialog, because what is behind that cannot be pressed.
  let line = null;
  let timer = 0;
  const topmost = () => [...document.querySelectorAll("dialog[open]")].at(-1) ?? document.body;
  const hush = () => {
    clearTimeout(timer);
    line?.remove();
    line = null;
  };
  const say = (words, { label, act, seconds = 6, fault = false } = {}) => {
    hush();
    const undo = label && element("button", { type: "button", text: label, onclick: () => { hush(); act(); } });
    const kind = fault ? "said fault-said" : "said";
    line = element("div", { class: kind, role: fault ? "alert" : "status" }, element("span", { text: words }), undo);
    topmost().append(line);
    timer = setTimeout(hush, seconds * 1000);
  };
  const fault = (error) => say(error.message, { fault: true, seconds: 10 });
  addEventListener("close", () => setTimeout(() => line && topmost().append(line)), true);

  const favourite = async (picture, on) => {
    tell({ kind: "favourite", pictures: [picture], on });
    try {
      await ask("/history/favourite", { picture, on });
    } catch (error) {
      tell({ kind: "favourite", pictures: [picture], on: !on });
      fault(error);
    }
  };

  const remove = async (picture) => {
    try {
      const { undo, pictures } = await ask("/history/delete", { pictures: [picture] });
      tell({ kind: "deleted", pictures: pictures.length ? pictures : [picture] });
      if (!pictures.length) return say("This picture was not there any more.");
      const back = async () => {
        try {
          tell({ kind: "back", ...(await ask("/history/undo", { undo })) });
        } catch (error) {
          fault(error);
        }
      };
      say("Deleted.", { label: "Undo", act: back, seconds: UNDO_SECONDS });
    } catch (error) {
      fault(error);
    }
  };

  // Where the page is not served securely there is no clipboard to write to; a selected text still can be copied.
  const copy = async (text, words = "Settings copied.") => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const box = element("textarea", { class: "unseen", "aria-hidden": "true" });
      box.value = text;
      topmost().append(box);
      box.select();
      const done = document.execCommand("copy");
      box.remove();
      if (!done) return say("The browser does not allow copying here.", { fault: true });
    }
    say(words);
  };

  const details = (picture) => ask(`/history/details/${encodeURI(picture)}`);

  const order = (what) => fooocusBoxes.order("restore", what);
  const restore = (values, seed, warnings = []) => {
    for (const dialog of [...document.querySelectorAll("dialog[open]")].reverse()) dialog.close();
    hush();
    order({ values, seed, warnings });
    document.querySelector("#field-prompt textarea")?.focus({ preventScroll: true });
  };
  const restorePicture = async (picture, seed) => {
    try {
      const told = await details(picture);
      if (!told.values) throw new Error(told.warnings?.[0] ?? "This picture holds no settings.");
      restore(told.values, seed, told.warnings);
    } catch (error) {
      fault(error);
    }
  };

  // The actions that a picture has everywhere; `now()` gives { picture, favourite, told } at the moment of the click.
  const actions = (now) => {
    const heart = button("heart", "Favourite", () => favourite(now().picture, heart.getAttribute("aria-pressed") !== "true"),
      { "aria-pressed": "false", title: "Mark as favourite (F)" });
    const settings = [
      button("same", "Same seed", () => restorePicture(now().picture, "same"), { title: "Restore its settings, with the same seed" }),
      button("new", "New seed", () => restorePicture(now().picture, "new"), { title: "Restore its settings, with a new seed" }),
      button("copy", "Copy settings", async () => {
        try {
          const told = now().told ?? (await details(now().picture));
          if (!told.text) throw new Error("This picture holds no settings.");
          await copy(told.text);
        } catch (error) {
          fault(error);
        }
      }),
    ];
    const bin = button("bin", "Delete", () => remove(now().picture), { title: "Delete this picture (Del)" });
    return { heart, settings, bin };
  };

  const when = (day, today) => {
    const [year, month, date] = day.split("-").map(Number);
    const then = new Date(year, month - 1, date);
    const days = Math.round((new Date(...today.split("-").map((n, i) => Number(n) - (i === 1))) - then) / 864e5);
    const relative = new Intl.RelativeTimeFormat(document.documentElement.lang || undefined, { numeric: "auto" });
    const near = days === 0 || days === 1;
    const long = { weekday: "long", year: "numeric", month: "long", day: "numeric" };
    const words = near ? relative.format(-days, "day") : then.toLocaleDateString(document.documentElement.lang || undefined, long);
    return words.charAt(0).toUpperCase() + words.slice(1);
  };

  window.fooocusPictures = {
    element, button, ask, told, address, thumbnail, pictureOf, tell, say, fault, hush,
    favourite, remove, copy, details, order, restore, restorePicture, actions, when, topmost,
  };

  // The stage after a job: its picture opens large, and has the same actions.
  const current = () => {
    const image = document.querySelector("#stage .frame.done img");
    return image ? pictureOf(image.src) : "";
  };
  const ofJob = () => {
    const strip = [...document.querySelectorAll("#stage .strip button[data-url]")].map((one) => pictureOf(one.dataset.url));
    return strip.length ? strip.filter((one) => !gone.has(one)) : [current()];
  };
  const marks = new Map(); // what is known of pictures on the stage: favourite or not
  const refresh = () => {
    const heart = document.querySelector('#stage .caption [data-do="favourite"]');
    const picture = current();
    if (!heart || !picture) return;
    if (!marks.has(picture)) {
      marks.set(picture, false);
      details(picture).then((told) => { marks.set(picture, told.favourite); refresh(); }, () => {});
    }
    const pressed = String(marks.get(picture));
    if (heart.getAttribute("aria-pressed") !== pressed) heart.setAttribute("aria-pressed", pressed);
  };
  const onStage = {
    favourite: () => favourite(current(), !marks.get(current())),
    same: () => restorePicture(current(), "same"),
    new: () => restorePicture(current(), "new"),
    copy: async () => {
      try {
        const told = await details(current());
        if (!told.text) throw new Error("This picture holds no settings.");
        await copy(told.text);
      } catch (error) {
        fault(error);
      }
    },
    delete: () => remove(current()),
    open: () => window.fooocusLightbox.open(ofJob(), ofJob().indexOf(current())),
  };
  addEventListener("click", (event) => {
    const pressed = event.target.closest?.("#stage [data-do]");
    if (pressed && current()) onStage[pressed.dataset.do]?.();
    const restored = event.target.closest?.("#restored [data-restore]");
    if (restored?.dataset.restore === "undo") order({ undo: true });
    if (restored) document.body.classList.add("restored-read");
  });
  // The line about restored settings goes by itself once there is nothing to undo, and when the next job is shown.
  let job = null;
  let leaving = 0;
  const fold = () => {
    const shown = document.querySelector("#stage .stage")?.dataset.job;
    if (shown !== job && job !== null) document.body.classList.add("restored-read");
    job = shown ?? job;
    clearTimeout(leaving);
    if (document.querySelector("#restored .restored:not(:has([data-restore=undo]))")) {
      leaving = setTimeout(() => document.body.classList.add("restored-read"), 8000);
    }
  };
  new MutationObserver(() => { refresh(); fold(); }).observe(document.documentElement, {
    subtree: true, childList: true, attributes: true, attributeFilter: ["src", "data-job"],
  });

  // A picture that was deleted leaves the stage too, and comes back with undo.
  const gone = new Set();
  const fade = () => {
    for (const one of document.querySelectorAll("#stage .strip button[data-url]")) {
      one.classList.toggle("gone", gone.has(pictureOf(one.dataset.url)));
    }
    const frame = document.querySelector("#stage .frame.done");
    frame?.classList.toggle("gone", gone.has(current()));
    document.querySelector("#stage .caption")?.classList.toggle("gone", gone.has(current()));
  };
  addEventListener("fooocus-pictures", ({ detail: { kind, pictures, on } }) => {
    for (const picture of pictures) {
      if (kind === "favourite") marks.set(picture, on);
      if (kind === "deleted") gone.add(picture);
      if (kind === "back") gone.delete(picture);
    }
    refresh();
    fade();
  });
  addEventListener("click", (event) => { if (event.target.closest?.("#stage .strip button")) setTimeout(fade); });
  // A picture that is no longer on the disk, after a reload for example.
  addEventListener("error", (event) => {
    const image = event.target;
    if (image.matches?.("#stage .frame.done img, #stage .strip img") && pictureOf(image.src)) {
      gone.add(pictureOf(image.src));
      fade();
    }
  }, true);
})();
