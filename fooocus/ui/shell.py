"""The page's own head in Gradio's document, so that our colours are there before its scripts are.

Gradio adds a stylesheet only after it has loaded itself, and shows its own logo meanwhile; this layer writes ours into
the one HTML answer of ``/`` and takes out the tags by which Gradio describes itself to other sites.
"""

from __future__ import annotations

import re

from fooocus.ui.guard import App, Message, Receive, Scope, Send

HEAD = """
<meta name="color-scheme" content="light dark">
<link rel="icon" type="image/svg+xml" href="/ui/icon.svg">
<link rel="stylesheet" href="/ui/page.css">
<link rel="stylesheet" href="/ui/panels.css">
<link rel="stylesheet" href="/ui/history.css">
<link rel="stylesheet" href="/ui/queue.css">
<link rel="stylesheet" href="/ui/devices.css">
<script src="/ui/words.js" defer></script>
<script src="/ui/kept.js" defer></script>
<script src="/ui/heard.js" defer></script>
<script src="/ui/page.js" defer></script>
<script src="/ui/pictures.js" defer></script>
<script src="/ui/lightbox.js" defer></script>
<script src="/ui/history.js" defer></script>
<script src="/ui/drop.js" defer></script>
<script src="/ui/devices.js" defer></script>
<script src="/ui/queue.js" defer></script>
<script src="/ui/advanced.js" type="module"></script>
<script src="/ui/models.js" type="module"></script>
<script src="/ui/presets.js" type="module"></script>
<script src="/ui/styles.js" type="module"></script>
"""
_FOREIGN = re.compile(r'<meta\s+(?:property|name)="(?:og|twitter):[^>]*?/?>\s*')


class Shell:
    """Pass everything to ``app``; dress the HTML of ``/``."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hold the answer to ``/`` until it is whole, and send it dressed."""
        if scope["type"] != "http" or scope["path"] != "/":
            await self._app(scope, receive, send)
            return
        # Compressed text could not be dressed.
        plain = {**scope, "headers": [h for h in scope["headers"] if h[0].lower() != b"accept-encoding"]}
        start: Message = {}
        body = b""

        async def collect(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                start = message
            elif message["type"] == "http.response.body":
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    await answer()

        async def answer() -> None:
            dressed = dress(body.decode("utf-8")).encode("utf-8")
            headers = [h for h in start["headers"] if h[0].lower() != b"content-length"]
            headers.append((b"content-length", str(len(dressed)).encode("ascii")))
            await send({**start, "headers": headers})
            await send({"type": "http.response.body", "body": dressed})

        await self._app(plain, receive, collect)


def dress(html: str) -> str:
    """Return Gradio's document with our head first and without its description of itself."""
    html = html.replace("<head>", "<head>" + HEAD, 1)
    head, found, rest = html.partition("</head>")
    return _FOREIGN.sub("", head) + found + rest
