// The queue: Pause and Resume beside Stop, the count in the foot line, and the panel that it opens. The server is asked
// for this person's own jobs; what it says reaches the document as text only.
(() => {
  const OPEN_SECONDS = 1, CLOSED_SECONDS = 5, UNDO_SECONDS = 12;
  const LOCKED = [401, 429];
  const AWAY = {
    gone: "The program does not answer. Look whether its window is still open, then try again.",
    replaced: "Something else answers in the program's place. Reload the page.",
    locked: "The program asks for its password again. Reload the page.",
  };
  const stage = () => document.querySelector("#stage .stage");
  const opener = () => document.querySelector("#queue-open");

  const element = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "text") made.textContent = value;
      else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.filter(Boolean));
    return made;
  };
  const set = (node, text) => { if (node.textContent !== text) node.textContent = text; };

  // Times as the stage says them: in steps that a person would use, and one that grows by little waits (ui/estimate.py).
  const shownTimes = new Map(); // by job
  const calmed = (id, seconds) => {
    const unit = seconds <= 20 ? 1 : seconds <= 85 ? 5 : seconds < 90 * 60 ? 60 : 360;
    const rough = Math.ceil(seconds / unit) * unit, shown = shownTimes.get(id) ?? Infinity;
    const told = shown < rough && seconds < Math.max(shown * 1.2, shown + 2) ? shown : rough;
    shownTimes.set(id, told);
    return told;
  };
  const duration = (seconds) => {
    if (seconds < 90) return `${Math.ceil(seconds)} s`;
    return seconds < 90 * 60 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
  };

  let known = { held: false, jobs: [], others: 0 };
  let asked = 0; // orders and looks by number: a late answer never overwrites a later one
  let shownAnswer = 0;
  // Where no cookie says who asks, the name of this page view does.
  const address = (path) => {
    const me = fooocusBoxes.read("me");
    return me ? `${path}?me=${encodeURIComponent(me)}` : path;
  };
  let leaving = false; // what a page that is being left asks fails too
  addEventListener("pagehide", () => { leaving = true; });
  addEventListener("pageshow", () => { leaving = false; });
  let ordered = 0; // the last order: until it is answered, others tell of a queue that is no more
  const ask = async (body) => {
    const number = ++asked;
    if (body) ordered = number;
    const order = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
    let answer, told;
    try {
      answer = await fetch(address("/queue"), body ? order : {});
      if (LOCKED.includes(answer.status)) throw new Error("locked");
      told = await answer.json();
      document.body.classList.remove("away");
      delete document.body.dataset.away;
    } catch (error) {
      // There was an answer, but none of the program's, or none to this person; or there was none.
      const why = LOCKED.includes(answer?.status) ? "locked" : error instanceof SyntaxError ? "replaced" : "gone";
      if (!leaving) {
        document.body.classList.add("away");
        document.body.dataset.away = why;
      }
      if (body) say(AWAY[why]);
      if (ordered === number) ordered = 0;
      return null;
    }
    if (!answer.ok) {
      if (ordered === number) ordered = 0;
      say([told.sentence, told.remedy].filter(Boolean).join(" "));
      return null;
    }
    if (number > shownAnswer && number >= ordered) {
      shownAnswer = number;
      known = told;
      show();
    }
    return told;
  };

  // The stage follows a job when its id stands last in this tab's list.
  const follow = (ids) => {
    if (!ids.length) return;
    const now = fooocusBoxes.read("tab");
    const others = now.split(" ").filter((id) => id && !ids.includes(id));
    const value = [...others, ...ids].slice(-50).join(" ");
    if (value === now) fooocusLive.listen(); // it stood there when it was cancelled, which the stage holds for its end
    else fooocusBoxes.write("tab", value);
  };

  const resume = async (id) => {
    const job = known.jobs.find((one) => one.id === id);
    // A job that waits while the whole queue is paused goes on when the queue does.
    const told = await ask(known.held && job?.state !== "paused" ? { do: "let go" } : { do: "resume", jobs: [id] });
    if (told) follow([id]);
  };
  const cancel = async (order, words) => {
    const told = await ask(order);
    if (!told?.undo?.length) return;
    const ids = told.undo.map((one) => one.job);
    say(words(ids.length), { label: "Undo", act: async () => {
      if (await ask({ do: "restore", jobs: ids, states: told.undo.map((one) => one.state) })) follow(ids);
    } });
  };

  // Edited jobs: their settings go into the page, and the job goes when the edited one is queued.
  const replaces = () => fooocusBoxes.read("replaces");
  const replace = (id) => fooocusBoxes.write("replaces", id);
  const edit = async (job) => {
    try {
      const answer = await fetch(address(`/queue/settings/${encodeURIComponent(job.id)}`));
      const told = await answer.json();
      if (!answer.ok) throw new Error([told.sentence, told.remedy].filter(Boolean).join(" "));
      window.fooocusPictures.order({ values: told.values, seed: "same", whole: true });
      document.querySelector("#field-prompt textarea")?.focus({ preventScroll: true });
      replace(job.id);
      close();
      show();
    } catch (error) {
      say(error.message);
    }
  };

  // The panel.
  const rows = new Map(); // id -> its parts
  let panel = null, dragged = null;

  const sign = (kind, words, act) =>
    element("button", { type: "button", class: `sign sign-${kind}`, title: words, "aria-label": words, onclick: act });

  const build = () => {
    const parts = {
      all: element("button", { type: "button", onclick: () => ask({ do: known.held ? "let go" : "hold" }) }),
      none: element("button", { type: "button", text: "Cancel all", onclick: () =>
        cancel({ do: "cancel all" }, (count) => (count === 1 ? "1 job cancelled." : `${count} jobs cancelled.`)) }),
      held: element("p", { class: "held", hidden: true, role: "status",
        text: "Your queue is paused. Nothing begins until you resume it, not even after a restart." }),
      empty: element("p", { class: "nothing", text: "Nothing is waiting." }),
      list: element("ol"),
      others: element("p", { class: "others" }),
      said: element("p", { class: "queue-said", role: "status" }),
    };
    const heading = element("h2", { id: "queue-title", text: "Queue", tabindex: "-1" });
    const node = element("section", { id: "queue-panel", role: "dialog", "aria-labelledby": "queue-title", hidden: true },
      element("header", {}, heading, parts.all, parts.none, sign("close", "Close", () => close())),
      parts.held, parts.empty, parts.list, parts.others, parts.said);
    document.body.append(node);
    return { node, heading, ...parts };
  };

  const build_row = (id) => {
    const own = () => known.jobs.find((one) => one.id === id);
    const parts = {
      grip: element("button", { type: "button", class: "sign sign-grip", onpointerdown: (event) => drag(event, id) }),
      prompt: element("p", { class: "asked" }),
      about: element("p", { class: "about" }),
      first: sign("first", "To the front", () => move(id, -Infinity)),
      up: sign("up", "Up", () => move(id, -1)),
      down: sign("down", "Down", () => move(id, 1)),
      edit: sign("edit", "Edit", () => edit(own())),
      pause: sign("pause", "Pause", () => ask({ do: "pause", jobs: [id] })),
      resume: sign("resume", "Resume", () => resume(id)),
      cancel: sign("close", "Cancel", () => cancel({ do: "cancel", jobs: [id] }, () => "1 job cancelled.")),
    };
    parts.grip.addEventListener("keydown", (event) => {
      const by = { ArrowUp: -1, ArrowDown: 1, Home: -Infinity, End: Infinity }[event.key];
      if (by === undefined) return;
      event.preventDefault();
      move(id, by);
    });
    parts.node = element("li", { "data-id": id }, parts.grip,
      element("div", { class: "words" }, parts.prompt, parts.about),
      element("div", { class: "acts" }, parts.first, parts.up, parts.down, parts.edit, parts.pause, parts.resume, parts.cancel));
    return parts;
  };

  const about = (job) => {
    const words = [job.count === 1 ? "1 picture" : `${job.count} pictures`, job.size.replace("x", "×")];
    if (job.state === "running") words.unshift("Running");
    else if (job.step) words.unshift(`Paused at step ${job.step} of ${job.steps}`);
    else if (job.state === "paused") words.unshift("Paused");
    if (job.state === "waiting" && !known.held) {
      if (job.others) words.push(job.others === 1 ? "1 of others before it" : `${job.others} of others before it`);
      if (job.begins !== null) words.push(job.begins < 1 ? "next" : `begins in about ${duration(calmed(job.id, job.begins))}`);
    }
    return words.join(" · ");
  };

  const fill = () => {
    const waiting = known.jobs.filter((job) => job.state === "waiting");
    for (const [id, parts] of rows) {
      if (!known.jobs.some((job) => job.id === id)) {
        if (parts.node.contains(document.activeElement)) panel.heading.focus();
        parts.node.remove();
        rows.delete(id);
        shownTimes.delete(id);
      }
    }
    known.jobs.forEach((job, index) => {
      if (!rows.has(job.id)) rows.set(job.id, build_row(job.id));
      const parts = rows.get(job.id);
      const place = waiting.indexOf(job);
      const name = job.prompt || "No prompt";
      parts.node.dataset.state = job.state;
      parts.prompt.translate = !job.prompt; // what a person wrote is left as it is
      set(parts.prompt, name);
      set(parts.about, about(job));
      parts.grip.disabled = place < 0;
      parts.grip.setAttribute("aria-label", `Move, ${place + 1} of ${waiting.length}`);
      parts.grip.title = "Drag, or use the arrow keys";
      for (const one of ["first", "up"]) parts[one].hidden = place < 1;
      parts.down.hidden = place < 0 || place === waiting.length - 1;
      parts.edit.hidden = job.state === "running" || !window.fooocusPictures;
      parts.pause.hidden = job.state === "paused" || (known.held && job.state === "waiting");
      parts.resume.hidden = job.state !== "paused";
      const label = job.state === "running" ? "Stop" : "Cancel";
      parts.cancel.setAttribute("aria-label", label);
      parts.cancel.title = label;
      if (panel.list.children[index] !== parts.node) {
        const focused = parts.node.contains(document.activeElement) && document.activeElement;
        panel.list.insertBefore(parts.node, panel.list.children[index] ?? null);
        if (focused) focused.focus();
      }
    });
    set(panel.all, known.held ? "Resume all" : "Pause all");
    panel.all.hidden = !known.jobs.length && !known.held;
    panel.none.hidden = !known.jobs.some((job) => job.state !== "running");
    panel.held.hidden = !known.held;
    panel.empty.hidden = known.jobs.length > 0;
    const others = known.others === 1 ? "1 job of other people" : `${known.others} jobs of other people`;
    set(panel.others, known.others ? others : "");
  };

  const show = () => {
    const rests = known.jobs.filter((job) => job.state !== "running");
    const paused = rests.filter((job) => job.state === "paused").length;
    const waiting = rests.length - paused;
    const words = [waiting && `${waiting} waiting`, paused && `${paused} paused`].filter(Boolean);
    const button = opener();
    if (button) {
      const text = known.held ? "Queue paused" : words.join(" · ");
      set(button, text);
      button.hidden = !text && panel?.node.hidden !== false;
      if (!text) set(button, "Queue");
      button.setAttribute("aria-expanded", String(panel?.node.hidden === false));
    }
    if (panel && !panel.node.hidden && !dragged) fill();
    const editing = replaces() && known.jobs.find((job) => job.id === replaces() && job.state !== "running");
    document.body.classList.toggle("editing-job", Boolean(editing));
  };

  const move = (id, by) => {
    const ids = known.jobs.filter((job) => job.state === "waiting").map((job) => job.id);
    const from = ids.indexOf(id), to = Math.min(ids.length - 1, Math.max(0, from + by));
    if (from < 0 || to === from) return;
    ids.splice(to, 0, ...ids.splice(from, 1));
    arrange(ids);
  };
  const arrange = (ids) => {
    const place = (job) => ids.indexOf(job.id);
    const waiting = known.jobs.filter((job) => job.state === "waiting").sort((one, other) => place(one) - place(other));
    const others = known.jobs.filter((job) => job.state !== "waiting");
    const running = others.filter((job) => job.state === "running");
    known = { ...known, jobs: [...running, ...waiting, ...others.filter((job) => job.state !== "running")] };
    show();
    ask({ do: "arrange", jobs: ids });
  };

  // Dragging by the grip, with a finger as with a mouse: the row goes where the pointer is. Its events are heard on the
  // window, because an element that changes its place in the document loses the pointer that it has captured.
  const drag = (event, id) => {
    if (event.button || dragged) return;
    event.preventDefault();
    const { node, grip } = rows.get(id);
    const { pointerId } = event;
    dragged = id;
    node.classList.add("dragged");
    grip.focus();
    const along = (moved) => {
      if (moved.pointerId !== pointerId) return;
      const others = [...panel.list.children].filter((one) => one !== node && one.dataset.state === "waiting");
      const before = others.find((one) => moved.clientY < one.getBoundingClientRect().top + one.offsetHeight / 2);
      const after = others.at(-1);
      if (before ? before.previousElementSibling === node : !after || after.nextElementSibling === node) return;
      if (before) panel.list.insertBefore(node, before);
      else after.after(node);
      grip.focus();
    };
    const end = (released) => {
      if (released.pointerId !== pointerId) return;
      removeEventListener("pointermove", along);
      removeEventListener("pointerup", end);
      removeEventListener("pointercancel", end);
      node.classList.remove("dragged");
      dragged = null;
      if (released.type === "pointerup") {
        arrange([...panel.list.children].filter((one) => one.dataset.state === "waiting").map((one) => one.dataset.id));
      } else show();
    };
    addEventListener("pointermove", along);
    addEventListener("pointerup", end);
    addEventListener("pointercancel", end);
  };

  let hushing = 0;
  const say = (words, { label, act } = {}) => {
    if (!panel) panel = build();
    if (panel.node.hidden) open();
    clearTimeout(hushing);
    const again = label && element("button", { type: "button", text: label, onclick: () => { panel.said.replaceChildren(); act(); } });
    panel.said.replaceChildren(element("span", { text: words }), ...(again ? [again] : []));
    hushing = setTimeout(() => panel.said.replaceChildren(), UNDO_SECONDS * 1000);
  };

  const open = () => {
    if (!panel) panel = build();
    panel.node.hidden = false;
    show();
    panel.heading.focus({ preventScroll: true });
    look();
  };
  const close = () => {
    if (!panel || panel.node.hidden) return;
    const inside = panel.node.contains(document.activeElement);
    panel.node.hidden = true;
    show();
    if (inside) (opener()?.hidden === false ? opener() : document.querySelector("#field-prompt textarea"))?.focus();
  };

  let next = 0;
  const look = async () => {
    clearTimeout(next);
    if (!document.hidden) await ask();
    const opened = panel && !panel.node.hidden;
    clearTimeout(next);
    const soon = opened || document.body.classList.contains("away");
    next = setTimeout(look, (soon ? OPEN_SECONDS : CLOSED_SECONDS) * 1000);
  };
  // The stage is told at once what happens to its job, so a change there is worth a look.
  let was = "";
  new MutationObserver(() => {
    if (opener() && !opener().hasAttribute("aria-expanded")) show(); // it has just been drawn
    const now = `${stage()?.dataset.job} ${stage()?.dataset.phase} ${stage()?.dataset.waiting}`;
    if (now === was) return;
    was = now;
    look();
  }).observe(document.documentElement, { subtree: true, childList: true, attributes: true, attributeFilter: ["data-job", "data-phase", "data-waiting"] });
  document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });

  addEventListener("click", (event) => {
    const pressed = event.target.closest?.("#pause, #resume, #queue-open, [data-queue]");
    if (!pressed) {
      if (panel && !panel.node.hidden && !panel.node.contains(event.target) && event.target.isConnected) close();
      return;
    }
    const job = stage()?.dataset.job;
    if (pressed.id === "pause") ask({ do: "pause", jobs: [job] });
    else if (pressed.id === "resume") resume(job);
    else if (pressed.dataset.queue === "keep") replace("");
    else if (panel && !panel.node.hidden) close();
    else open();
    if (pressed.id === "pause") document.body.classList.add("pausing");
  });
  new MutationObserver(() => {
    if (stage()?.dataset.phase !== "running") document.body.classList.remove("pausing");
  }).observe(document.documentElement, { subtree: true, childList: true, attributes: true, attributeFilter: ["data-phase"] });
  addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !panel || panel.node.hidden || document.querySelector("dialog[open]")) return;
    event.stopImmediatePropagation();
    close();
  }, true);
  window.fooocusQueue = { look, follow };
  look();
})();
