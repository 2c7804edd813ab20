"""A hub on loopback that misbehaves on demand: addresses, headers and redirects as the real one, and faults by list.

Each GET of a file's bytes takes the next fault of the list; when the list is empty the hub is faultless. What was asked
and how many bytes were sent is counted, so that a test can say what a break has cost.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PAGE = b"<!DOCTYPE html><html><body>Welcome to our hotel. Please sign in.</body></html>"
_BLOCK = 64 * 1024


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """A file of ``size`` bytes, all of which follow from ``seed``."""

    name: str
    size: int
    seed: int = 0

    def block(self, index: int) -> bytes:
        """Return the bytes from ``index`` times the block's size on; every block differs."""
        stamp = struct.pack("<QQ", self.seed, index)
        body = (stamp + _noise(self.seed)[16:])[: max(0, self.size - index * _BLOCK)]
        return body

    def read(self, start: int, count: int) -> bytes:
        """Return some of the bytes."""
        first, last = start // _BLOCK, (start + count - 1) // _BLOCK
        joined = b"".join(self.block(index) for index in range(first, last + 1))
        return joined[start - first * _BLOCK :][:count]

    @functools.cached_property
    def sha256(self) -> str:
        """The hash of all the bytes."""
        digest = hashlib.sha256()
        for index in range((self.size + _BLOCK - 1) // _BLOCK):
            digest.update(self.block(index))
        return digest.hexdigest()


def _noise(seed: int) -> bytes:
    cache = _noise.__dict__.setdefault("cache", {})
    return cache.setdefault(seed, random.Random(seed).randbytes(_BLOCK))


@dataclasses.dataclass(frozen=True)
class Fault:
    """One misbehaviour. ``after`` bytes of the body are sent before it, where that means something."""

    kind: str
    after: int = 0
    value: str = ""


@dataclasses.dataclass
class Asked:
    """One request for bytes."""

    path: str
    start: int
    headers: dict[str, str]
    sent: int = 0


class FakeHub:
    """The hub. ``cut_every`` breaks every connection after so many bytes; ``rate`` limits each, in bytes per second."""

    def __init__(self, *files: RemoteFile, faults: list[Fault] | None = None) -> None:
        self.files = {file.name: file for file in files}
        self.faults = list(faults or [])
        self.rate: float | None = 20e6  # so that a client that hangs up is noticed before all has been sent
        self.cut_every: int | None = None
        self.needs_token: str | None = None
        self.ranges = True
        self.linked = True
        self.asked: list[Asked] = []
        self.heads = 0
        self.lock = threading.Lock()
        self.ended = threading.Event()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def sent(self) -> int:
        """How many bytes of files were sent in all."""
        return sum(asked.sent for asked in self.asked)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def next_fault(self) -> Fault | None:
        """Take the fault of the next answer."""
        with self.lock:
            return self.faults.pop(0) if self.faults else None


class _Handler(BaseHTTPRequestHandler):
    """``/<owner>/<name>/resolve/<revision>/<file>`` points to ``/bytes/<file>``, which stands for the hub's storage."""

    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        """Answer as a GET without its body."""
        self.hub.heads += 1
        self._answer()

    def do_GET(self) -> None:
        """Answer; a client that goes away in the middle is what is being tested."""
        try:
            self._answer()
        except (BrokenPipeError, ConnectionError):
            self.close_connection = True

    def _answer(self) -> None:
        hub = self.hub
        file = hub.files.get(self.path.rpartition("/")[2])
        if hub.needs_token and "/resolve/" in self.path and self.headers.get("Authorization") != hub.needs_token:
            return self._plain(401)
        if file is None:
            return self._plain(404)
        if "/resolve/" in self.path:
            self.send_response(302)
            # Another host name, as the hub's storage has: a token must not go there.
            self.send_header("Location", f"http://localhost:{hub.port}/bytes/{file.name}")
            if hub.linked:
                self.send_header("X-Linked-Etag", f'"{file.sha256}"')
                self.send_header("X-Linked-Size", str(file.size))
                self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        if self.command == "HEAD":
            self.send_response(200)
            self.send_header("Content-Length", str(file.size))
            self.end_headers()
            return None
        return self._bytes(file, hub.next_fault())

    def _bytes(self, file: RemoteFile, fault: Fault | None) -> None:
        hub, kind = self.hub, fault.kind if fault else ""
        wanted = self.headers.get("Range", "")
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and hub.ranges and kind != "no range" else 0
        asked = Asked(self.path, start, dict(self.headers))
        hub.asked.append(asked)
        match kind:
            case "status":
                headers = {"Retry-After": fault.value.partition(":")[2]} if fault and ":" in fault.value else {}
                return self._plain(int((fault.value if fault else "500").partition(":")[0]), headers)
            case "page":
                return self._plain(200, {"Content-Type": "text/html"}, PAGE)
            case "hidden page":  # as if it were the file: no length, no type
                return self._plain(200, {"Content-Type": "application/octet-stream"}, PAGE, told_length=False)
            case "redirect":
                return self._plain(302, {"Location": f"/bytes/{file.name}"})
            case "circle":
                return self._plain(302, {"Location": self.path})
            case "wrong range":
                start = max(0, start - 1)
        shorter = int(fault.value) if fault and kind == "wrong length" else 0
        self._head(file, start, wanted if start or kind == "wrong range" else "", shorter)
        self._body(file, start, fault, asked)
        return None

    def _head(self, file: RemoteFile, start: int, wanted: str, shorter: int) -> None:
        size = file.size - shorter
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Length", str(size - start))
        self.send_header("Content-Type", "application/octet-stream")
        self.end_headers()

    def _body(self, file: RemoteFile, start: int, fault: Fault | None, asked: Asked) -> None:
        hub, kind = self.hub, fault.kind if fault else ""
        # A short buffer, so that "sent" is nearly "arrived".
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BLOCK)
        position, began = start, time.monotonic()
        end = start + fault.after if fault and kind in ("fin", "rst", "stall") else file.size
        end = min(end, file.size, start + hub.cut_every if hub.cut_every else file.size)
        while position < end and not hub.ended.is_set():
            data = file.read(position, min(_BLOCK - position % _BLOCK, end - position))
            if fault and kind == "flip" and position <= fault.after < position + len(data):
                at = fault.after - position
                data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
            self.wfile.write(data)
            position += len(data)
            asked.sent += len(data)
            if hub.rate and (ahead := (position - start) / hub.rate - (time.monotonic() - began)) > 0:
                hub.ended.wait(ahead)
        if position < file.size:
            self._break(kind)

    def _break(self, kind: str) -> None:
        if kind == "stall":
            self.hub.ended.wait(20)
        if kind == "rst":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        self.close_connection = True

    def _plain(
        self, status: int, headers: dict[str, str] | None = None, body: bytes = b"", *, told_length: bool = True
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if told_length:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for something to become true."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.01)
