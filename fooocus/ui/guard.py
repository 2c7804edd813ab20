"""The door of the page: one ASGI layer in front of every route.

A page on localhost is reachable for every other page that is open in the same browser, and for every device when it
listens to the network. So this layer looks at who asks for what, before anything else runs:

- only the routes the page itself needs exist;
- ``Host`` must be one of our names with our port (a rebound domain has another);
- ``Origin``, where a browser sends it, must be this very page; without it a cross-site request may only read;
- with a password, every route asks for it, and guessing is slow;
- every answer tells the browser to load nothing from elsewhere and to let nobody frame it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import ipaddress
import re
import secrets
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any

from fooocus.config import Config
from fooocus.errors import ConfigError
from fooocus.ui.refusals import document

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OWNER_COOKIE = "fooocus_owner"
OWNER_SECONDS = 400 * 24 * 3600  # browsers cap a cookie's life at 400 days
WRONG_TRY_SECONDS = 1.0
TRIES_A_MINUTE = 10
REMEMBERED_ADDRESSES = 1000

_NAME = r"[\w@+-][\w.@+-]*"  # of a file; none begins with a dot
# What the page asks for, and nothing else. (methods, pattern of the whole path)
DOORS: tuple[tuple[frozenset[str], re.Pattern[str]], ...] = tuple(
    (frozenset(methods.split()), re.compile(pattern))
    for methods, pattern in (
        ("GET HEAD", r"/"),
        ("GET HEAD", r"/(config|theme\.css|favicon\.ico|manifest\.json)"),
        ("GET HEAD", rf"/(assets|static|ui)(/{_NAME})+"),
        ("GET HEAD", rf"/((pictures|thumbnails)/{_NAME}|preview)/{_NAME}"),
        ("GET", rf"/history/(state|overview|page|filters|details/{_NAME}/{_NAME})"),
        ("POST", r"/history/(favourite|delete|undo|read)"),
        ("GET POST", r"/(queue|kept)"),
        ("POST", r"/device"),
        ("GET HEAD POST", r"/join/[\w-]+"),
        ("GET", rf"/queue/settings/{_NAME}"),
        ("GET", r"/live"),
        ("GET", r"/gradio_api/app_id"),
        ("POST", rf"/gradio_api/run/{_NAME}"),
    )
)
# Gradio's page starts from inline scripts and compiles its templates, so scripts of our own may do both; nothing may
# be loaded from, sent to, or framed by another place.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)
HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
    (b"content-security-policy", POLICY.encode("ascii")),
)


class Guard:
    """Refuse what does not come from this page's own address; pass the rest to ``app`` with an owner cookie.

    ``port`` is the one that is really bound. ``seconds`` is the pause after a wrong password. ``goodbye`` is for the
    server to call before it waits for its connections: it ends those that have no end. Raises
    :class:`~fooocus.errors.ConfigError` when the network would be let in without a password.
    """

    def __init__(
        self,
        app: App,
        config: Config,
        port: int,
        *,
        seconds: float = WRONG_TRY_SECONDS,
        goodbye: Callable[[], None] = lambda: None,
    ) -> None:
        if not config.password and (config.listen or not _is_loopback(config.host)):
            raise ConfigError([f"serving on {config.host} opens the page to the network and needs a password."])
        self.goodbye = goodbye
        self._app = app
        self._port = port
        self._listens = config.listen
        self._password = config.password.encode("utf-8")
        self._names = allowed_names(config)
        self._seconds = seconds
        self._wrong: dict[str, deque[float]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one connection and hand it on, or answer it here."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page uses no WebSocket; closing before accepting is answered with 403
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = _headers(scope)
        status = self._refusal(scope, headers) or await self._login(scope, headers)
        if status:
            await _answer(send, status, headers)
            return
        cookie = None
        if owner_of(headers.get("cookie", "")) is None and scope["path"] == "/":
            cookie = owner_cookie(secrets.token_urlsafe(18))
        await self._app(scope, receive, _with_headers(send, cookie))

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> int:
        """Return the status that refuses a request, or 0."""
        host = headers.get("host", "")
        if not self._is_ours(host):
            return 400
        origin = headers.get("origin")
        reads = scope["method"] in ("GET", "HEAD")
        if origin is not None and origin.lower() != f"http://{host.lower()}":
            return 403
        if origin is None and not reads and headers.get("sec-fetch-site") == "cross-site":
            return 403
        found = [methods for methods, pattern in DOORS if pattern.fullmatch(scope["path"])]
        if not found:
            return 404
        return 0 if any(scope["method"] in methods for methods in found) else 405

    def _is_ours(self, host: str) -> bool:
        name, port = split_host(host)
        if port != self._port and not (port is None and self._port == 80):
            return False
        # A rebound domain is a name; an address in Host was really connected to.
        return name in self._names or (self._listens and _is_address(name))

    async def _login(self, scope: Scope, headers: dict[str, str]) -> int:
        """Return 0 when the password is right or none is wanted; a wrong one costs time, many cost a minute."""
        if not self._password:
            return 0
        given = _basic_password(headers.get("authorization", ""))
        if given is None:
            return 401
        address = (scope.get("client") or ("", 0))[0]
        now = time.monotonic()
        wrong = self._wrong.setdefault(address, deque())
        while wrong and now - wrong[0] > 60:
            wrong.popleft()
        if len(wrong) >= TRIES_A_MINUTE:
            return 429
        if hmac.compare_digest(given, self._password):
            self._wrong.pop(address, None)
            return 0
        wrong.append(now)
        if len(self._wrong) > REMEMBERED_ADDRESSES:
            self._wrong.pop(next(iter(self._wrong)))
        await asyncio.sleep(self._seconds)
        return 401


def allowed_names(config: Config) -> frozenset[str]:
    """Return the host names under which the page may be asked for, in lower case, IPv6 in brackets."""
    names = {"127.0.0.1", "localhost", "[::1]"}
    if config.listen:
        own = socket.gethostname().lower()
        names |= {own, own.partition(".")[0], own.partition(".")[0] + ".local"}
    if config.host and not _is_wildcard(config.host):
        names.add(f"[{config.host.lower()}]" if ":" in config.host else config.host.lower())
    return frozenset(names)


def split_host(host: str) -> tuple[str, int | None]:
    """Split a ``Host`` header into name and port; a malformed one has an empty name, which is never allowed."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+)(?::(\d{1,5}))?", host, re.ASCII)
    if not match:
        return "", None
    return match[1].lower(), int(match[2]) if match[2] else None


def owner_cookie(owner: str) -> str:
    """Return the ``Set-Cookie`` header that makes a browser this person's."""
    return f"{OWNER_COOKIE}={owner}; Path=/; Max-Age={OWNER_SECONDS}; HttpOnly; SameSite=Lax"


def owner_of(cookies: str) -> str | None:
    """Return the owner token in a ``Cookie`` header, or ``None``."""
    try:
        morsel = SimpleCookie(cookies).get(OWNER_COOKIE)
    except CookieError:
        return None
    return morsel.value if morsel and re.fullmatch(r"[\w-]{16,64}", morsel.value, re.ASCII) else None


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host.strip("[]")).is_loopback)


def _is_wildcard(host: str) -> bool:
    return _is_address(host) and ipaddress.ip_address(host.strip("[]")).is_unspecified


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _headers(scope: Scope) -> dict[str, str]:
    """Return the headers by lower-case name; of a repeated ``Host`` or ``Origin`` nothing is believed."""
    result: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        result[name] = f"{result[name]}, {value}" if name in result else value
    return result


def _basic_password(header: str) -> bytes | None:
    """Return the password of an HTTP Basic header (any user name), or ``None`` when there is none."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(encoded.strip(), validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""


_WORDS: Mapping[int, str] = {
    400: "This page answers only under its own address.",
    401: "Please log in.",
    403: "Another site may not do this.",
    404: "There is nothing here.",
    405: "This is not how to ask.",
    429: "Too many wrong passwords. Try again in a minute.",
}


async def _answer(send: Send, status: int, asked: Mapping[str, str]) -> None:
    shown = document(status, asked.get("accept-language", "")) if "text/html" in asked.get("accept", "") else None
    body, kind = (shown or _WORDS[status]).encode("utf-8"), b"text/html" if shown else b"text/plain"
    headers = [(b"content-type", kind + b"; charset=utf-8"), (b"content-length", str(len(body)).encode()), *HEADERS]
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="Fooocus", charset="UTF-8"'))
    if status == 429:
        headers.append((b"retry-after", b"60"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _with_headers(send: Send, cookie: str | None) -> Send:
    """Add our headers to an answer; those that the route has set itself, such as a stricter policy, stay."""

    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", []))
            present = {name.lower() for name, _ in headers}
            headers += [(name, value) for name, value in HEADERS if name not in present]
            headers = [(name, value) for name, value in headers if not name.lower().startswith(b"access-control-")]
            if cookie:
                headers.append((b"set-cookie", cookie.encode("ascii")))
            message = {**message, "headers": headers}
        await send(message)

    return wrapped
