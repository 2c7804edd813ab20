// What the page is told without asking: the stage of its jobs, the worker's state, the missing files. See ui/live.py.
// It goes into its places here, not through Gradio: only what has changed is touched, and what other scripts or the
// browser have made of the rest (words of another language, a thumbnail that is pressed) stays.
(() => {
  const AGAIN_SECONDS = 1;
  // Where each kind of words goes: around an element that Gradio has drawn there at the beginning.
  const PLACES = { stage: "#stage .stage", status: "#status [data-live]", first: "#first [data-live], #first .unknown" };

  const roots = {}, said = {}, drawn = {}; // drawn: as the server said it, for comparison

  const morph = (live, before, after) => {
    if (before.isEqualNode(after)) return;
    if (live.nodeName !== after.nodeName || before.nodeName !== after.nodeName) {
      live.replaceWith(after.cloneNode(true));
      return;
    }
    if (after.nodeType !== Node.ELEMENT_NODE) {
      live.data = after.data;
      return;
    }
    for (const { name, value } of after.attributes) {
      if (before.getAttribute(name) !== value) live.setAttribute(name, value);
    }
    for (const { name } of before.attributes) if (!after.hasAttribute(name)) live.removeAttribute(name);
    children(live, before, after);
  };
  const children = (live, before, after) => {
    const [lives, olds, news] = [live, before, after].map((node) => [...node.childNodes]);
    if (lives.length !== olds.length) { // somebody else has been here: what the server says counts
      live.replaceChildren(...after.cloneNode(true).childNodes);
      return;
    }
    news.forEach((node, i) => (i < lives.length ? morph(lives[i], olds[i], node) : live.append(node.cloneNode(true))));
    for (const node of lives.slice(news.length)) node.remove();
  };

  const about = (node) => {
    const stage = node.querySelector(".stage");
    return stage ? `${stage.dataset.job} ${stage.hasAttribute("data-active")}` : "";
  };

  // Returns whether the words have found their place, which Gradio draws a while after this script has begun.
  const place = (kind) => {
    if (!roots[kind]?.isConnected) {
      roots[kind] = document.querySelector(PLACES[kind])?.parentElement;
      drawn[kind] = null;
    }
    if (!roots[kind]) return false;
    const template = document.createElement("template");
    template.innerHTML = said[kind];
    // Another job, or the end of this one, is told afresh: what was pressed or put there belongs to what went before.
    if (drawn[kind] && about(drawn[kind]) === about(template.content)) children(roots[kind], drawn[kind], template.content);
    else roots[kind].replaceChildren(template.content.cloneNode(true));
    drawn[kind] = template.content;
    if (kind === "stage") ended(about(template.content));
    return true;
  };
  let waiting = 0;
  const placeAll = () => {
    const open = Object.keys(said).filter((kind) => !place(kind));
    clearTimeout(waiting);
    if (open.length) waiting = setTimeout(placeAll, 50);
  };
  const put = (kind, html) => {
    if (said[kind] === html && roots[kind]?.isConnected) return;
    said[kind] = html;
    if (!place(kind)) placeAll();
  };

  // What Gradio's events hang on goes through hidden boxes.
  const tell = (id, value) => {
    if (!fooocusBoxes.write(id, value)) setTimeout(tell, 50, id, value);
  };
  // A job's end, also of one that was not seen at work: what it took has been learnt by now.
  let was = null, ends = 0;
  const ended = (now) => {
    if (was !== null && was !== now && (was.endsWith(" true") || now.endsWith(" false"))) tell("watched", String(++ends));
    was = now;
  };

  // Another program answers, after an update perhaps: this page's scripts and names are not its own, so it is loaded
  // again; once, and not while it holds what would be lost.
  const mine = document.querySelector('meta[name="fooocus-page"]')?.content ?? "";
  const renew = (served) => {
    const { session } = window.fooocusStore;
    if (served === mine || session.get("fooocus.renewed") === served) return;
    const keeps = fooocusBoxes.read("replaces") || (fooocusBoxes.read("me") && fooocusBoxes.read("field-prompt"));
    if (keeps) return;
    session.set("fooocus.renewed", served);
    location.reload();
  };

  // The server lets the newest tabs of a browser stay; the others look now and then, and wait for a place.
  const page = Math.random().toString(36).slice(2);
  let ids = "", source = null, next = 0, waits = false;
  const listen = (waiting = false) => {
    clearTimeout(next);
    waits = waiting;
    source?.close();
    const asked = new URLSearchParams({ tab: ids, page });
    const me = fooocusBoxes.read("me");
    if (me) asked.set("me", me);
    if (waits) asked.set("waits", "1");
    const own = source = new EventSource(`/live?${asked}`);
    const hear = (kind, then) => own.addEventListener(kind, ({ data }) => { if (own === source) then(JSON.parse(data)); });
    let pause = 0;
    hear("page", renew);
    hear("stage", (html) => put("stage", html));
    hear("news", (news) => {
      put("status", news.status);
      put("first", news.first);
      if (news.arrived) tell("arrived", news.arrived); // what has come has come
    });
    hear("pause", (seconds) => { pause = seconds; });
    // A glance has ended, or the program has: the second is the queue's affair to say.
    own.onerror = () => {
      if (own !== source) return;
      own.close();
      if (!pause) window.fooocusQueue?.look();
      waits = pause > 0;
      next = setTimeout(listen, (pause || AGAIN_SECONDS) * 1000, waits);
    };
  };
  window.fooocusLive = {
    listen,
    watch: (wanted) => {
      if (wanted === ids) return;
      ids = wanted;
      listen();
      dispatchEvent(new Event("fooocus-jobs"));
    },
  };
  document.addEventListener("visibilitychange", () => { if (!document.hidden && waits) listen(); });
  addEventListener("pageshow", ({ persisted }) => { if (persisted) listen(); }); // back from another page, as it was left
  listen();
})();
