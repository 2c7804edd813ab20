// What was typed and set comes back: at once from this browser, and from the server where that has something newer, such
// as what was typed on the same person's phone. Nothing that is typed here is overwritten by an answer that comes late.
(() => {
  const VALUES = "fooocus.values", ABOUT = "fooocus.kept";
  const PUSH_MS = 600, ANSWER_MS = 2000;
  const { object: read, keep: write } = fooocusStore.local;
  const box = () => document.querySelector("#field-prompt textarea");

  let begun = false; // the page shows what is remembered; before, its values are those of nobody
  let early = null; // what was said before that
  let last = ""; // the values that are kept
  let shown = null; // the prompt that was put into the box
  let typed = false;
  addEventListener("input", (event) => { if (event.isTrusted && event.target === box()) typed = true; }, true);

  let timer = 0;
  const push = async () => {
    clearTimeout(timer);
    const sent = last;
    try {
      const answer = await fetch("/kept", { method: "POST", headers: { "content-type": "application/json" }, body: sent, keepalive: sent.length < 60000 });
      if (answer.ok && sent === last) write(ABOUT, { ...read(ABOUT), unsent: false });
    } catch { /* it is tried again with the next change, and when the page is opened */ }
  };
  addEventListener("pagehide", () => {
    // Gradio tells of a key a moment after it, which a page that is left does not live to hear.
    const known = JSON.parse(last || "{}"), now = box()?.value;
    if (begun && typed && "prompt" in known && known.prompt !== now) remember({ ...known, prompt: now, advanced: known.advanced && !folded });
    if (read(ABOUT).unsent && last) navigator.sendBeacon?.("/kept", new Blob([last], { type: "application/json" }));
  });
  addEventListener("online", () => { if (read(ABOUT).unsent && last) push(); });

  // On a narrow window Advanced is a sheet over the picture, and open only as long as somebody looks at it. Where it was
  // put away for the picture's sake, it is remembered as open all the same: a wide window has room for both.
  const narrow = () => matchMedia("(max-width: 899px)").matches;
  let folded = false, shut = true;

  const remember = (told) => {
    if (!begun) { early = told; return; }
    if (told.advanced && shut) folded = false; // somebody has opened it again
    shut = !told.advanced;
    const values = folded ? { ...told, advanced: true } : told;
    const text = JSON.stringify(values);
    if (text === last) return;
    last = text;
    write(VALUES, values);
    write(ABOUT, { at: Date.now(), unsent: true });
    clearTimeout(timer);
    timer = setTimeout(push, PUSH_MS);
  };

  const ofServer = async () => {
    try {
      const answer = await fetch("/kept", { signal: AbortSignal.timeout(ANSWER_MS) });
      return answer.ok ? await answer.json() : {};
    } catch { return {}; }
  };
  // The newer of both. Ages are compared, because no two clocks agree.
  const recall = async () => {
    const mine = read(VALUES), about = read(ABOUT);
    const kept = await ofServer();
    const older = about.unsent && Date.now() - (about.at ?? 0) < (kept.age_ms ?? Infinity);
    const values = !kept.values || older ? mine : kept.values;
    last = JSON.stringify(values);
    if (older && Object.keys(mine).length) push();
    if (values !== mine) {
      write(VALUES, values);
      write(ABOUT, { at: Date.now() - kept.age_ms, unsent: false });
    }
    if (values !== mine && typeof values.prompt === "string") putPrompt(values.prompt);
    folded = narrow() && values.advanced === true;
    return folded ? { ...values, advanced: false } : values;
  };
  const putPrompt = (prompt, tries = 20) => {
    if (typed || !box()) return;
    if (box().value === prompt) return;
    if (shown !== null && box().value !== shown) { // the remembered one is still on its way into the box
      if (tries) setTimeout(() => putPrompt(prompt, tries - 1), 50);
      return;
    }
    fooocusBoxes.write("field-prompt", prompt);
  };

  window.fooocusKept = {
    remember,
    recall,
    narrow,
    fold: () => { folded = true; shut = false; },
    prompt: (begin) => {
      const kept = read(VALUES).prompt ?? begin;
      const there = box()?.value ?? ""; // looked at last: what is typed meanwhile is worth more
      shown = there && there !== begin ? there : kept;
      return shown;
    },
    begin: () => {
      begun = true;
      if (early) remember(early);
      early = null;
    },
  };
})();
