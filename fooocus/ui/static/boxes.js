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
  return { find, read: (id) => find(id)?.value ?? "", write };
})();
