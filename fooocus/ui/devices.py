"""Use on another device: a link, good once and for some minutes, that makes a second browser the same person.

The link only shows a button; what it does is done by the button. So a messenger that looks at the link before it is
opened uses nothing up. Jobs that the second browser has made before go along to the person who made the link, and stay
held if they were; the page says so before the button is pressed.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
import threading
import time
from collections.abc import Callable
from html import escape

from starlette.applications import Starlette
from starlette.requests import Request as WebRequest
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from fooocus.config import Config
from fooocus.ui.guard import owner_cookie, split_host
from fooocus.ui.people import cookie_owner
from fooocus.ui.qr import qr_svg

MINUTES = 10
_LINKS_KEPT = 100
_NOT_LISTENING = (
    "This page answers on this computer only.",
    "Start the program with --listen and --password, then other devices can open it.",
)
_OVER = "This link was used already, or it is too old. Make a new one on the first device."


class Links:
    """The links that are good now. They live in memory: a restart of the program ends them."""

    def __init__(self, seconds: float = MINUTES * 60) -> None:
        self._seconds = seconds
        self._links: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def make(self, owner: str) -> str:
        """Return the token of a new link to a person; the oldest of too many ends."""
        token = secrets.token_urlsafe(16)
        with self._lock:
            if len(self._links) >= _LINKS_KEPT:
                self._links.pop(next(iter(self._links)))
            self._links[token] = owner, time.monotonic() + self._seconds
        return token

    def good(self, token: str) -> bool:
        """Return whether a token still opens something."""
        with self._lock:
            return token in self._links and time.monotonic() < self._links[token][1]

    def take(self, token: str) -> str | None:
        """Use a token up; return the person it leads to."""
        with self._lock:
            owner, until = self._links.pop(token, ("", 0.0))
        return owner if time.monotonic() < until else None


def add_device_routes(app: Starlette, config: Config, port: int, adopt: Callable[[str, str], object]) -> None:
    """Add making a link and following it. ``adopt(old, new)`` gives a person's jobs to another name of theirs."""
    links = Links()

    def make(request: WebRequest) -> Response:
        owner = cookie_owner(request)
        host = network_host(request.headers.get("host", "")) if config.listen else ""
        if not host or not owner:
            sentence, remedy = _NOT_LISTENING
            return JSONResponse({"sentence": sentence, "remedy": remedy}, status_code=422)
        url = f"http://{host}:{port}/join/{links.make(owner)}"
        told = {"url": url, "svg": qr_svg(url), "minutes": MINUTES}
        return JSONResponse(told, headers={"cache-control": "no-store"})

    def offer(request: WebRequest) -> Response:
        return _page(_OFFER if links.good(request.path_params["token"]) else f"<p>{escape(_OVER)}</p>")

    def join(request: WebRequest) -> Response:
        owner = links.take(request.path_params["token"])
        if owner is None:
            return _page(f"<p>{escape(_OVER)}</p>", status=410)
        before = cookie_owner(request)
        if before and before != owner:
            adopt(before, owner)
        return RedirectResponse("/", status_code=303, headers={"set-cookie": owner_cookie(owner)})

    app.add_route("/device", make, methods=["POST"])
    app.add_route("/join/{token}", offer, methods=["GET"])
    app.add_route("/join/{token}", join, methods=["POST"])


def network_host(asked: str) -> str:
    """Return the host under which other devices reach this computer: the one asked for, if it is no loopback."""
    name = split_host(asked)[0]
    if name and name != "localhost" and not _is_loopback(name):
        return name
    address = own_address()
    return address if address and not _is_loopback(address) else ""


def own_address() -> str:
    """Return the address of this computer in its network; nothing is sent to find it."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))  # an address that nobody has: the system only chooses its way out
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


_OFFER = (
    "<p>Your prompt, your settings and your jobs of the other device will be here too.</p>"
    "<p>Jobs made here before go along to the person who made this link.</p>"
    '<form method="post"><button>Use on this device</button></form>'
)


def _page(inside: str, *, status: int = 200) -> Response:
    html = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Fooocus</title>'
        '<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">'
        '<link rel="stylesheet" href="/ui/page.css"><link rel="stylesheet" href="/ui/devices.css"></head>'
        f'<body class="join"><main>{inside}</main></body></html>'
    )
    # A form on a page without referrer says "Origin: null", which the guard takes for a stranger's.
    return HTMLResponse(
        html, status_code=status, headers={"cache-control": "no-store", "referrer-policy": "same-origin"}
    )
