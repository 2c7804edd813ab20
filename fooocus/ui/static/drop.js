// Settings from a picture or a text that somebody drops, pastes or chooses. A card says what was found; nothing is
// applied without a click.
(() => {
  const { element, told, restore, fault } = window.fooocusPictures;
  const MAX_BYTES = 25e6;
  const KINDS = "image/png,image/jpeg,image/webp";

  let card = null;
  let veil = null;
  let chooser = null;

  const read = async (body) => {
    const text = typeof body === "string";
    if (!text && body.size > MAX_BYTES) throw new Error("It is larger than 25 MB. Choose the picture as it was saved.");
    let answer;
    try {
      const headers = { "content-type": text ? "text/plain" : "application/octet-stream" };
      answer = await fetch("/history/read", { method: "POST", body, headers });
    } catch {
      throw new Error("The program does not answer. Look whether its window is still open, then try again.");
    }
    return told(answer);
  };

  const show = (found, name, picture) => {
    card?.remove();
    const values = Object.keys(found.values).length;
    const apply = (words, seed, main) => element("button", { type: "button", class: main ? "main" : "", text: words,
      onclick: () => { card.close(); restore(found.values, seed, found.warnings); } });
    const list = element("dl", {});
    for (const [label, value, ids] of found.rows) {
      list.append(element("dt", { text: label }), element("dd", { text: value, translate: "no", title: ids }));
    }
    const seeded = found.values.seed !== undefined && found.values.seed !== null;
    card = element("dialog", { class: "pictures card", "aria-label": "Settings found" },
      element("div", { class: "card-head" },
        picture && element("img", { alt: "", src: picture }),
        element("div", {}, element("h2", { text: values ? "Settings found" : "No usable settings" }),
          element("p", { class: "origin", text: [found.origin, name].filter(Boolean).join(" · ") }))),
      found.prompt ? element("p", { class: "prompt", translate: "no", text: found.prompt }) : null,
      found.negative ? element("p", { class: "negative", translate: "no", text: found.negative }) : null,
      list,
      ...found.warnings.map((words) => element("p", { class: "warning", text: words })),
      element("div", { class: "orders" },
        values ? apply(seeded ? "Apply with its seed" : "Apply", "same", true) : null,
        values && seeded ? apply("Apply with a new seed", "new") : null,
        element("button", { type: "button", class: "quiet", text: "Close", onclick: () => card.close() })));
    card.addEventListener("close", () => { if (picture) URL.revokeObjectURL(picture); card.remove(); });
    card.addEventListener("click", (event) => { if (event.target === card) card.close(); });
    document.body.append(card);
    card.showModal();
  };

  const take = async (file) => {
    try {
      const found = await read(file);
      show(found, file.name, URL.createObjectURL(file));
    } catch (error) {
      fault(error);
    }
  };
  const pictureIn = (data) => [...(data?.files ?? [])].find((file) => file.type.startsWith("image/")) ?? data?.files?.[0];

  const cover = (on) => {
    if (on && !veil) {
      veil = element("div", { class: "drop-veil" }, element("p", { text: "Drop a picture to read its settings" }));
      window.fooocusPictures.topmost().append(veil);
    }
    if (!on) { veil?.remove(); veil = null; }
  };
  const isFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  addEventListener("dragover", (event) => { if (isFile(event)) { event.preventDefault(); cover(true); } }, true);
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) cover(false); }, true);
  addEventListener("drop", (event) => {
    cover(false);
    if (!isFile(event)) return;
    event.preventDefault();
    event.stopPropagation();
    const file = pictureIn(event.dataTransfer);
    if (file) take(file);
  }, true);

  // A text of settings still lands in the prompt, as any other; the card only offers to take it for what it is.
  const looksLikeSettings = (text) => text.length < 1e6 && (/(^|\n)\s*Steps: *\d+ *(,|$)/m.test(text.slice(-20000)) || /^\s*\{\s*"/.test(text));
  addEventListener("paste", async (event) => {
    const file = pictureIn(event.clipboardData);
    if (file) {
      event.preventDefault();
      take(file);
      return;
    }
    const text = event.clipboardData?.getData("text/plain") ?? "";
    if (!event.target.closest?.("#field-prompt") || !looksLikeSettings(text)) return;
    try {
      show(await read(text), "");
    } catch {
      return; // it is a prompt like any other
    }
  }, true);

  addEventListener("click", (event) => {
    if (!event.target.closest?.("#read-picture")) return;
    chooser ??= element("input", { type: "file", accept: KINDS, class: "unseen", tabindex: "-1", "aria-label": "Picture to read",
      onchange: () => { if (chooser.files[0]) take(chooser.files[0]); chooser.value = ""; } });
    document.body.append(chooser);
    chooser.click();
  });

})();
