// What the page is told without asking: the stage of its jobs, the worker's state, the missing files. See ui/live.py.
// It goes into its places here, not through Gradio: only what has changed is touched, and what other scripts or the
// browser have made of the rest (words of another language, a thumbnail that is pressed) stays.
(() => {
  const CONNECTIONS = 4; // that the tabs of a browser may hold; it has six to one address, and the rest is for questions
  const AGAIN_SECONDS = 1, GLANCE_SECONDS = 1.5;
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
    return stage && `${stage.dataset.job} ${stage.hasAttribute("data-active")}`;
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
    const box = document.querySelector(`#${id} textarea, #${id} input`);
    if (!box) setTimeout(tell, 50, id, value);
    else if (box.value !== value) {
      box.value = value;
      box.dispatchEvent(new Event("input", { bubbles: true }));
    }
  };

  // One connection a tab, for as long as there are enough of them. The lock of a tab goes when the tab does.
  let mayStay = false, asking = null;
  const askForConnection = () => (asking ??= takeConnection().finally(() => { asking = null; }));
  const takeConnection = async () => {
    if (!navigator.locks) return true; // browsers have them for pages of their own computer and for https only
    for (let number = 0; number < CONNECTIONS; number += 1) {
      const got = await new Promise((resolve) => {
        navigator.locks.request(`fooocus-connection-${number}`, { ifAvailable: true }, (lock) => {
          resolve(Boolean(lock));
          return lock ? new Promise(() => {}) : null;
        }).catch(() => resolve(true));
      });
      if (got) return true;
    }
    return false;
  };

  let ids = "", source = null, next = 0, opening = 0;
  let ends = 0, ended = ""; // how many times jobs have ended, and what stood on the stage then
  const listen = async () => {
    const turn = ++opening;
    clearTimeout(next);
    if (!mayStay && await askForConnection()) mayStay = true;
    if (turn !== opening) return; // other jobs meanwhile
    source?.close();
    const asked = new URLSearchParams({ tab: ids });
    const me = document.querySelector("#me textarea, #me input")?.value;
    if (me) asked.set("me", me);
    if (!mayStay) asked.set("glance", "1");
    const own = source = new EventSource(`/live?${asked}`);
    const hear = (kind, then) => own.addEventListener(kind, ({ data }) => { if (own === source) then(JSON.parse(data)); });
    let heard = false;
    hear("stage", (html) => { put("stage", html); heard = true; });
    hear("news", (news) => {
      heard = true;
      put("status", news.status);
      put("first", news.first);
      if (news.arrived) tell("arrived", news.arrived); // what has come has come
    });
    hear("over", () => {
      if (said.stage === ended) return; // who only glances is told again and again
      ended = said.stage;
      tell("watched", String(++ends));
    });
    // A glance has ended, or the program has: the second is the queue's affair to say.
    own.onerror = () => {
      if (own !== source) return;
      own.close();
      if (mayStay || !heard) window.fooocusQueue?.look();
      next = setTimeout(listen, (mayStay || !heard ? AGAIN_SECONDS : GLANCE_SECONDS) * 1000);
    };
  };
  window.fooocusLive = {
    watch: (wanted) => {
      if (wanted === ids) return;
      ids = wanted;
      listen();
    },
  };
  addEventListener("pageshow", ({ persisted }) => { if (persisted) listen(); }); // back from another page, as it was left
  listen();
})();
