// What HTML alone cannot do: the tab's title, keys in the prompt, examples, and choosing a picture of the strip.
// Everything is found anew at each event, because Gradio may replace any element.
(() => {
  // Gradio 6.31 forgets to stop the clock of its loading screen, which then runs at every frame of the screen for as
  // long as the page is open (8 % of a core). Nobody sees any of its clocks here, so none goes on.
  const frames = window.requestAnimationFrame.bind(window);
  const aClock = /performance\.now\(\)-.{1,20}\/1e3/;
  window.requestAnimationFrame = (then) => (aClock.test(then) ? 0 : frames(then));

  // After one action that nobody answers Gradio is deaf: it asks nothing more, and loads the page again as soon as somebody
  // answers, which loses what was set meanwhile. So it is told no, and the queue says that the program is away.
  const ask = window.fetch.bind(window);
  window.fetch = async (what, how) => {
    try {
      return await ask(what, how);
    } catch (error) {
      if (!String(what?.url ?? what).includes("/gradio_api/run/")) throw error;
      window.fooocusQueue?.look();
      return new Response('{"error": "away"}', { status: 503, headers: { "content-type": "application/json" } });
    }
  };

  const prompt = () => document.querySelector("#field-prompt textarea");
  const stage = () => document.querySelector("#stage .stage");

  let shown = null; // the job that the stage shows
  let stopping = null; // the job that was asked to stop and has not yet

  // What a person has unfolded or folded stays so, though the server's next frame knows nothing of it.
  const unfolded = new Map();
  const refold = () => {
    for (const details of document.querySelectorAll("details[data-key]")) {
      const open = unfolded.get(details.dataset.key);
      if (open !== undefined && details.open !== open) details.open = open;
    }
  };

  // The stage says what the tab is called, and whether a job that shall stop still runs.
  const title = () => {
    const empty = stage()?.dataset.phase === "empty";
    const known = (empty && document.querySelector(".welcome")?.dataset.title) || stage()?.dataset.title;
    const said = known && document.body.dataset.away ? "No answer" : known; // what was going on may have ended
    const inWords = said && fooocusWords.title(said);
    const words = said && document.body.classList.contains("unseen-end") ? `● ${inWords}` : inWords;
    if (words && document.title !== words) document.title = words;
    if (stage() && stage().dataset.job !== shown) { // another job is worth more than the screen of missing files
      shown = stage().dataset.job;
      document.body.classList.remove("models");
    }
    if (stage()?.dataset.job !== stopping || !stage().hasAttribute("data-active")) {
      stopping = null;
      document.body.classList.remove("stopping");
    }
  };
  new MutationObserver(() => { title(); refold(); keepPicked(); }).observe(document.documentElement, {
    subtree: true, childList: true, attributes: true,
    attributeFilter: ["data-title", "data-active", "data-job", "data-away", "open", "src", "aria-pressed"],
  });

  // A pressed shape keeps the scale of the size that stands there: miniature models draw the same shapes, smaller.
  const sides = (size) => size.replace(/\s/g, "").split(/[xX×*]/).map(Number);
  const scaleOf = ([width, height]) => {
    const halvings = Math.round(Math.log((width * height) / 2 ** 20) / Math.log(4));
    return width > 0 && height > 0 ? 2 ** Math.min(1, Math.max(-3, halvings)) : 1;
  };
  const press = (shape, size) => sides(shape).map((side) => Math.floor(side * scaleOf(sides(size)))).join("x");
  const match = (size, known) => known.find((shape) => press(shape, size) === sides(size).join("x")) ?? null;
  window.fooocusShapes = { press, match };

  // On a phone the sheet of settings stands on the desk, whose height follows the prompt.
  const heights = new ResizeObserver(([desk]) => {
    document.documentElement.style.setProperty("--desk-height", `${Math.round(desk.target.offsetHeight)}px`);
  });
  const findDesk = setInterval(() => {
    const desk = document.querySelector("#desk");
    if (!desk) return;
    clearInterval(findDesk);
    heights.observe(desk);
  }, 50);

  // The prompt waits for the first key, but not where focus would raise a keyboard of glass. (What is hidden, as the page
  // is until all of it is there, cannot have the focus that Gradio gives it.)
  const findPrompt = setInterval(() => {
    if (!prompt()?.checkVisibility({ visibilityProperty: true })) return;
    clearInterval(findPrompt);
    if (document.activeElement === document.body && matchMedia("(hover: hover)").matches) prompt().focus();
  }, 50);

  // On a narrow window the sheet of settings would hide what becomes of a job that is asked for from it.
  let asked = false;
  const asks = (event) => {
    const enter = event.key === "Enter" && !event.shiftKey && !event.isComposing && event.target === prompt();
    if (enter || (event.type === "click" && event.target.closest?.("#go"))) asked = true;
  };
  for (const kind of ["click", "keydown"]) addEventListener(kind, asks, true);
  addEventListener("fooocus-jobs", () => {
    const advanced = document.querySelector("#advanced-switch input");
    if (asked && advanced?.checked && fooocusKept.narrow()) {
      fooocusKept.fold();
      advanced.click();
    }
    asked = false;
  });

  // While the job runs, a pressed thumbnail stands in the frame until it is pressed again.
  let picked = { job: "", url: "" };
  let live = ""; // what the server has put there
  const keepPicked = () => {
    const image = stage()?.querySelector(".frame.forming img");
    if (!image || picked.job !== stage().dataset.job) return;
    const now = image.getAttribute("src");
    if (now !== picked.url) live = now;
    if (picked.url && now !== picked.url) image.src = picked.url;
    for (const one of stage().querySelectorAll(".strip button")) {
      const pressed = String(one.dataset.url === picked.url);
      if (one.getAttribute("aria-pressed") !== pressed) one.setAttribute("aria-pressed", pressed);
    }
  };

  // A frame that does not come, because the program has gone, leaves an empty paper and no sign of something broken.
  for (const event of ["error", "load"]) {
    addEventListener(event, ({ target }) => {
      if (target.matches?.("#stage .frame:is(.forming, .unfinished) img")) target.classList.toggle("lost", event === "error");
    }, true);
  }

  const show = (button) => {
    if (stage().dataset.phase === "running") {
      const again = picked.job === stage().dataset.job && picked.url === button.dataset.url;
      picked = { job: stage().dataset.job, url: again ? "" : button.dataset.url };
      const image = stage().querySelector(".frame.forming img");
      if (again && image && live) image.src = live;
      keepPicked();
      return;
    }
    const url = button.dataset.url;
    const all = button.parentElement.querySelectorAll("button");
    all.forEach((one) => one.setAttribute("aria-pressed", one === button));
    const image = stage().querySelector(".frame img");
    if (image) image.src = url;
    stage().querySelectorAll(".caption a").forEach((link) => link.setAttribute("href", url));
    const seed = stage().querySelector(".caption .seed");
    if (seed) seed.textContent = button.dataset.seed;
  };

  // The screen of missing files, asked for again or put aside.
  const showModels = (on) => {
    document.body.classList.toggle("later", !on);
    document.body.classList.toggle("models", on);
  };

  addEventListener("click", (event) => {
    const ordered = event.target.closest?.("[data-order]");
    if (ordered) fooocusBoxes.order("order", { do: ordered.dataset.order, name: ordered.dataset.name ?? "" });
    const folded = event.target.closest?.("summary")?.closest("details[data-key]");
    if (folded) unfolded.set(folded.dataset.key, !folded.open);
    const models = event.target.closest?.("[data-models]");
    if (models) showModels(models.dataset.models === "show");
    const example = event.target.closest?.("[data-example]");
    if (example && prompt()) {
      fooocusBoxes.write("field-prompt", example.dataset.example);
      prompt().focus();
    }
    if (event.target.closest?.("#stop")) {
      stopping = stage().dataset.job;
      document.body.classList.add("stopping");
    }
    const choice = event.target.closest?.(".strip button");
    if (choice) show(choice);
  });

  // Enter generates, Shift+Enter is a new line; Enter that ends a composed character does neither.
  addEventListener("keydown", (event) => {
    if (event.target === prompt() && event.key === "Enter" && (event.shiftKey || event.isComposing)) {
      event.stopImmediatePropagation();
      return;
    }
    if (event.target === prompt() && event.key === "Enter" && event.repeat) { // held down, it asks once
      event.stopImmediatePropagation();
      event.preventDefault();
      return;
    }
    const onStrip = event.target.closest?.(".strip button");
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (onStrip && step) {
      const all = [...onStrip.parentElement.querySelectorAll("button")];
      const next = all[(all.indexOf(onStrip) + step + all.length) % all.length];
      next.focus();
      next.click();
    }
    // What is open inside the column or above it closes first, and by itself.
    if (event.key !== "Escape" || event.target.closest?.("[data-escapes]") || document.querySelector("dialog[open], #queue-panel:not([hidden])")) return;
    if (document.body.classList.contains("advanced")) document.querySelector("#advanced-switch input")?.click();
    else if (document.body.classList.contains("models")) showModels(false);
  }, true);
})();
