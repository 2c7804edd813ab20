"""What a page loads, as bytes that are ready: its document, Gradio's scripts, and our own. In front of all routes.

Each is read and compressed once, when it is first asked for. A file whose name tells its content, as Gradio's do, is
never asked for twice by a browser; of the others it asks whether they have changed. Our own files may be changed while
the program runs.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from starlette.datastructures import Headers

from fooocus.ui.compiled import ORIGIN, Compiled, frontend
from fooocus.ui.guard import App, Receive, Scope, Send
from fooocus.ui.shell import dress

STATIC = Path(__file__).resolve().parent / "static"
_MEDIA: Mapping[str, str] = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".woff2": "font/woff2",
    ".woff": "font/woff",
    ".ttf": "font/ttf",
    ".wasm": "application/wasm",
}
_PACKED = (".woff2", ".woff", ".png")  # compressed already
_OURS = re.compile(r"/ui/(\w+\.(?:css|js|svg)|words/[a-z]{2}\.json)", re.ASCII)
_GRADIO = re.compile(r"/(assets|static)((?:/[\w@+-][\w.@+-]*)+)", re.ASCII)
_ASK = "no-cache"  # may be kept, and is asked for again
_FOR_EVER = "public, max-age=31536000, immutable"
_LEVEL = 6
_SMALL_BYTES = 400  # compressing less gains nothing
_KEPT_BYTES = 64_000_000
_MANIFEST: Mapping[str, object] = {
    "name": "Fooocus",
    "start_url": "/",
    "display": "standalone",
    "icons": [{"src": "/ui/icon.svg", "sizes": "any", "type": "image/svg+xml"}],
}


@dataclasses.dataclass(frozen=True)
class Ready:
    """A body in the forms in which it is sent, and the headers of each."""

    plain: bytes
    packed: bytes
    etag: str
    headers: tuple[tuple[bytes, bytes], ...]

    async def send(self, scope: Scope, send: Send) -> None:
        """Answer a request: with nothing but its name if the browser has it, compressed if it understands that."""
        asked = Headers(scope=scope)
        if self.etag in asked.get("if-none-match", ""):
            await send({"type": "http.response.start", "status": 304, "headers": [*self.headers]})
            await send({"type": "http.response.body", "body": b""})
            return
        packed = self.packed and "gzip" in asked.get("accept-encoding", "")
        body = self.packed if packed else self.plain
        headers = [*self.headers, (b"content-length", str(len(body)).encode("ascii"))]
        if packed:
            headers.append((b"content-encoding", b"gzip"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def ready(body: bytes, suffix: str, *, cache: str = _ASK, media: str = "") -> Ready:
    """Make a body ready to be sent as what a file with this suffix holds."""
    packed = b"" if suffix in _PACKED or len(body) < _SMALL_BYTES else gzip.compress(body, _LEVEL, mtime=0)
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    media = media or _MEDIA.get(suffix, "application/octet-stream")
    told = {"content-type": media, "etag": etag, "cache-control": cache, "vary": "accept-encoding"}
    return Ready(body, packed, etag, tuple((n.encode("ascii"), v.encode("ascii")) for n, v in told.items()))


def mark(page: Compiled) -> str:
    """Return a name of what a browser gets of a page: one that is open has to be loaded again when it is another."""
    told = hashlib.sha256(json.dumps([page.document, page.config, page.theme, [*page.functions.items()]]).encode())
    for file in sorted(STATIC.rglob("*")):
        if file.is_file():
            told.update(file.relative_to(STATIC).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return told.hexdigest()[:32]


class Files:
    """Answer what is a file or always the same; pass the rest to ``app``.

    ``app_id`` is this life of the program, ``served`` the page's :func:`mark`, which it bears.
    """

    def __init__(self, app: App, page: Compiled, app_id: int, served: str) -> None:
        self._app = app
        self._frontend = frontend()
        own = f'"app_id":{page.app_id}', f'"app_id":{app_id}'
        document = dress(page.document, served).replace(*own).replace(json.dumps(ORIGIN), "location.origin")
        self._config = page.config.replace(*own)
        self._fixed = {
            "/": ready(document.encode("utf-8"), "", media="text/html; charset=utf-8", cache=f"private, {_ASK}"),
            "/theme.css": ready(page.theme.encode("utf-8"), ".css"),
            "/manifest.json": ready(json.dumps(_MANIFEST).encode(), "", media="application/manifest+json"),
        }
        self._read: dict[str, tuple[float, Ready]] = {}
        self._read_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the others answer."""
        found = self._find(scope) if scope["type"] == "http" and scope["method"] in ("GET", "HEAD") else None
        if found is None:
            await self._app(scope, receive, send)
        else:
            await found.send(scope, send)

    def _find(self, scope: Scope) -> Ready | None:
        path = scope["path"]
        if path in self._fixed:
            return self._fixed[path]
        if path == "/config":
            here = f"http://{Headers(scope=scope).get('host', '')}"
            return ready(self._config.replace(ORIGIN, here).encode("utf-8"), ".json", cache="no-store")
        if path == "/favicon.ico":
            return self._file(STATIC / "icon.svg", _ASK)
        if ours := _OURS.fullmatch(path):
            return self._file(STATIC / ours[1], _ASK)
        if theirs := _GRADIO.fullmatch(path):
            return self._file(self._frontend / (theirs[1] + theirs[2]), _FOR_EVER if theirs[1] == "assets" else _ASK)
        return None

    def _file(self, file: Path, cache: str) -> Ready | None:
        """Return a file as it is now, nothing if there is none."""
        try:
            found = file.stat()
            if not stat.S_ISREG(found.st_mode):  # older Windows have devices in every folder: reading CON never ends
                return None
            changed = found.st_mtime
            kept = self._read.get(str(file))
            if kept is not None and kept[0] == changed:
                return kept[1]
            made = ready(file.read_bytes(), file.suffix, cache=cache)
        except OSError:
            return None
        if self._read_bytes > _KEPT_BYTES:
            self._read.clear()
            self._read_bytes = 0
        self._read[str(file)] = changed, made
        self._read_bytes += len(made.plain) + len(made.packed)
        return made
