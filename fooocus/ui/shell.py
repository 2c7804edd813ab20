"""The page's own head in Gradio's document, so that our colours are there before its scripts are.

Gradio adds a stylesheet only after it has loaded itself, and shows its own logo meanwhile; here ours is written into
the document, and the tags are taken out by which Gradio describes itself to other sites.
"""

from __future__ import annotations

import re

HEAD = """
<meta name="color-scheme" content="light dark">
<link rel="icon" type="image/svg+xml" href="/ui/icon.svg">
<link rel="stylesheet" href="/ui/page.css">
<link rel="stylesheet" href="/ui/panels.css">
<link rel="stylesheet" href="/ui/history.css">
<link rel="stylesheet" href="/ui/queue.css">
<link rel="stylesheet" href="/ui/devices.css">
<script src="/ui/store.js" defer></script>
<script src="/ui/words.js" defer></script>
<script src="/ui/boxes.js" defer></script>
<script src="/ui/kept.js" defer></script>
<script src="/ui/heard.js" defer></script>
<script src="/ui/page.js" defer></script>
<script src="/ui/live.js" defer></script>
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


def dress(html: str, mark: str) -> str:
    """Return Gradio's document with our head first, the page's mark in it, and without its description of itself."""
    html = html.replace("<head>", f'<head><meta name="fooocus-page" content="{mark}">{HEAD}', 1)
    head, found, rest = html.partition("</head>")
    return _FOREIGN.sub("", head) + found + rest
