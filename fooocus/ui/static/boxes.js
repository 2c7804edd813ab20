// Gradio's text fields, hidden or not, by their ids: what scripts write there, Gradio takes for typed.
window.fooocusBoxes = (() => {
  const find = (id) => document.querySelector(`#${id} textarea, #${id} input`);
  // Says whether the box is there, which it is a while after the page has begun.
  const write = (id, value) => {
    const box = find(id);
    if (box && box.value !== value) {
      box.value = value;
      box.dispatchEvent(new Event("input", { bubbles: true }));
    }
    return Boolean(box);
  };
  // An order goes through a hidden box; its number makes the same order twice two orders.
  let orders = Date.now();
  const order = (id, what) => write(id, JSON.stringify({ ...what, number: ++orders }));
  return { find, read: (id) => find(id)?.value ?? "", write, order };
})();
