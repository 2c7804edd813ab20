"""The server's side of what Gradio's scripts in the browser speak: ask an action, be answered.

The page is laid out with Gradio, and its scripts run in the browser as they are; what they ask is answered here, by the
functions of :mod:`fooocus.ui.page`, without Gradio's own server. It gave each page a copy of all components and checked
every value against them, 13 to 15 ms of one core a request; :mod:`fooocus.request` checks what arrives anyway.

No action goes through Gradio's queue: what a page is told without asking comes by :mod:`fooocus.ui.live`.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Mapping
from typing import Any

import anyio.to_thread
from starlette.requests import Request as WebRequest
from starlette.responses import Response
from starlette.routing import Route

from fooocus.errors import FooocusError
from fooocus.ui import views
from fooocus.ui.actions import ACTIONS, Action
from fooocus.ui.body import read_body
from fooocus.ui.fields import BY_NAME
from fooocus.ui.page import Answer, Boxes, Once, Update
from fooocus.ui.people import NO_COOKIE, cookie_owner

API = "/gradio_api"
MAX_BYTES = 10_000_000  # of a question; a prompt, settings and what is restored are far less
_LONGEST_HASH = 100
_AS_THEY_ARE = ("choice", "pills", "slider")  # kinds of controls whose values are no texts
_SAME: Mapping[str, Any] = {"__type__": "update"}  # nothing about this box has changed
_HEADERS: Mapping[str, str] = {"cache-control": "no-store"}


class Protocol:
    """Answer the browser's scripts. ``functions`` gives the name of the action that each of their numbers means."""

    def __init__(self, functions: Mapping[int, str], once: Mapping[str, Once]) -> None:
        self._functions, self._once = functions, once
        self.app_id = secrets.randbits(62)  # by it a page that lost its server knows whether it is the same one

    def routes(self) -> list[Route]:
        """Return the routes under which the scripts ask."""
        return [
            Route(f"{API}/run/{{name}}", self._run, methods=["POST"]),
            Route(f"{API}/app_id", self._told_id),
        ]

    async def _run(self, request: WebRequest) -> Response:
        asked = await self._asked(request)
        if asked is None:
            return _told({"detail": "This question cannot be read."}, status=422)
        action, given, session = asked
        answer = await anyio.to_thread.run_sync(self._answer, action, given, _owner(request, session))
        return _told(_output(_values(action, answer)))

    def _answer(self, action: Action, given: Boxes, owner: str) -> Answer:
        """Do what is asked. What nobody thought of is logged, and said to a person who has pressed something."""
        once = self._once[action.name]
        if "problem" not in action.told:
            return once(given, owner)
        try:
            return {"problem": "", **once(given, owner)}
        except FooocusError as error:
            return {"problem": views.problem(error)}
        except Exception:  # the page's one broad catch: a button that does nothing helps nobody
            logging.getLogger("fooocus.ui").exception("%s: a defect", action.name)
            return {"problem": views.problem(views.defect())}

    async def _asked(self, request: WebRequest) -> tuple[Action, Boxes, str] | None:
        """Read a question: the action, its boxes, and the page that asks. It may be anything."""
        body = await read_body(request, MAX_BYTES)
        try:
            asked = None if body is None else json.loads(body)
        except (ValueError, RecursionError):
            return None
        if not isinstance(asked, dict):
            return None
        number, data, hash = asked.get("fn_index"), asked.get("data"), asked.get("session_hash") or ""
        action = ACTIONS.get(self._functions.get(number, "")) if isinstance(number, int) else None
        if action is None or not isinstance(data, list) or len(data) != len(action.given):
            return None
        if not isinstance(hash, str) or len(hash) > _LONGEST_HASH:
            return None
        return action, {name: _read(name, value) for name, value in zip(action.given, data, strict=True)}, hash

    async def _told_id(self, request: WebRequest) -> Response:
        return _told({"app_id": self.app_id})


def _owner(request: WebRequest, session: str) -> str:
    """Return who asks: the browser's token, or, where cookies are off, this one page view."""
    return cookie_owner(request) or f"{NO_COOKIE}{session}"


def _read(box: str, value: Any) -> Any:
    """Return what a box holds. All but a few controls are texts, and an empty one may come as nothing."""
    row = BY_NAME.get(box)
    if isinstance(value, str) or (row is not None and row.kind in _AS_THEY_ARE):
        return value
    return "" if value is None else str(value)


def _values(action: Action, answer: Answer) -> list[Any]:
    """Return an answer in the order in which the page knows its boxes."""
    return [_shown(answer[name]) if name in answer else _SAME for name in action.told]


def _shown(value: Any) -> Any:
    return {**value, "__type__": "update"} if isinstance(value, Update) else value


def _output(data: list[Any]) -> dict[str, Any]:
    """Return what the scripts read of an answer."""
    return {"data": data, "is_generating": False, "render_config": None, "changed_state_ids": []}


def _json(told: Any) -> bytes:
    # In ASCII, because a prompt may hold half of a surrogate pair, which UTF-8 cannot.
    return json.dumps(told, allow_nan=False, separators=(",", ":")).encode("ascii")


def _told(told: Any, *, status: int = 200) -> Response:
    return Response(_json(told), status, media_type="application/json", headers=_HEADERS)
