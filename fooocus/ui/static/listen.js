// Many tabs of one browser. It has six connections for one server, and the stream by which Gradio's scripts hear of news
// keeps one for as long as its tab is open; so the server lets only a few tabs stream and answers the others in pieces
// (see protocol.py). Here a tab asks for one piece after the other, and Gradio reads them as one stream. As soon as
// another tab is closed, the next piece is a stream that stays.
(() => {
  const SHOWN_MS = 500, HIDDEN_MS = 3000;
  const ask = window.fetch.bind(window);

  // A tab that comes back is not kept waiting.
  const rest = () => new Promise((done) => {
    const end = () => {
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", back);
      done();
    };
    const back = () => { if (!document.hidden) end(); };
    const timer = setTimeout(end, document.hidden ? HIDDEN_MS : SHOWN_MS);
    document.addEventListener("visibilitychange", back);
  });

  const joined = (request, first) => {
    let piece = first, reader = piece.body.getReader();
    const read = async (into) => {
      for (;;) {
        const { done, value } = await reader.read();
        if (!done) return into.enqueue(value);
        if (!piece.headers.has("x-ask-again")) return into.close();
        await rest();
        piece = await ask(request.clone()); // ends with an error when the tab has given up listening
        if (!piece.ok) throw new Error(piece.status);
        reader = piece.body.getReader();
      }
    };
    const whole = new ReadableStream({ pull: read, cancel: (why) => reader.cancel(why) });
    return new Response(whole, { headers: first.headers });
  };

  window.fetch = async (what, how) => {
    const listens = what instanceof Request && new URL(what.url).pathname.endsWith("/gradio_api/queue/data");
    const answer = await ask(listens ? what.clone() : what, how);
    return listens && answer.ok && answer.headers.has("x-ask-again") ? joined(what, answer) : answer;
  };
})();
