// What this browser keeps of the page, in a storage of the browser's or, where that is closed (cookies are blocked) or
// full, until the page is left. What others have put there may be anything.
window.fooocusStore = (() => {
  const store = (name) => {
    const here = new Map();
    const theirs = (act) => {
      try { return act(window[name]); } catch { return undefined; }
    };
    const get = (key) => (here.has(key) ? here.get(key) : theirs((storage) => storage.getItem(key)) ?? null);
    const set = (key, text) => {
      here.delete(key);
      if (!theirs((storage) => { storage.setItem(key, text); return true; })) here.set(key, text);
    };
    return {
      get,
      set,
      remove: (key) => { here.delete(key); theirs((storage) => storage.removeItem(key)); },
      object: (key) => {
        try { return Object(JSON.parse(get(key) || "{}")); } catch { return {}; }
      },
      keep: (key, value) => set(key, JSON.stringify(value)),
    };
  };
  return { local: store("localStorage"), session: store("sessionStorage") };
})();
