// "Use on another device": asks for a link and shows it as a code for the phone's camera and as text.
(() => {
  const element = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "text") made.textContent = value;
      else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else made.setAttribute(name, value);
    }
    made.append(...children.filter(Boolean));
    return made;
  };
  const show = async () => {
    let told;
    try {
      told = await (await fetch("/device", { method: "POST" })).json();
    } catch {
      told = { sentence: "The program does not answer. Look whether its window is still open, then try again.", remedy: "" };
    }
    const dialog = element("dialog", { id: "device", "aria-labelledby": "device-title" });
    const done = element("button", { type: "button", text: "Close", onclick: () => dialog.close() });
    const head = element("h2", { id: "device-title", text: "Use on another device" });
    if (told.url) {
      const code = element("img", { alt: "The link as a QR code", src: `data:image/svg+xml,${encodeURIComponent(told.svg)}` });
      const link = element("input", { readonly: "", value: told.url, "aria-label": "Link", onfocus: (event) => event.target.select() });
      dialog.append(head, code, link,
        element("p", { text: "Open this link on the other device, in the same network. Your prompt, settings and jobs are then there too." }),
        element("p", { text: "It works once, for ten minutes, and asks for the page's password." }), done);
    } else {
      dialog.append(head, element("p", { text: told.sentence }), element("p", { text: told.remedy }), done);
    }
    dialog.addEventListener("close", () => dialog.remove());
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    document.body.append(dialog);
    dialog.showModal();
  };
  addEventListener("click", (event) => { if (event.target.closest?.("#device-open")) show(); });
})();
