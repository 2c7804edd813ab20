"""The server's side of what Gradio's scripts in the browser speak: ask an action, and read streams of answers.

The page is laid out with Gradio, and its scripts run in the browser as they are; what they ask is answered here, by the
functions of :mod:`fooocus.ui.page`, without Gradio's own server. It gave each page a copy of all components and checked
every value against them, 13 to 15 ms of one core a request; :mod:`fooocus.request` checks what arrives anyway.

Spoken is ``sse_v3`` as of gradio 6.31: ``run`` answers at once; ``queue/join`` names an event whose answers come in the
one stream of the page, ``queue/data``. The first answer of an event is whole, the next ones say what has changed, the
last repeats the newest. The stream stays open when nothing is pending, so that no event finds it closing; when the
page closes it, what it was to carry ends.

A browser has six connections for one server, however many tabs of it are open, and a stream takes one. So only a few
tabs of a browser stream; the others are answered in pieces, which ``static/listen.js`` puts together to a stream.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import anyio.to_thread
from starlette.requests import Request as WebRequest
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from fooocus.ui.actions import ACTIONS, Action
from fooocus.ui.body import read_body
from fooocus.ui.fields import BY_NAME
from fooocus.ui.guard import owner_of
from fooocus.ui.page import Again, Answer, Boxes, Once, Update

API = "/gradio_api"
MAX_BYTES = 10_000_000  # of a question; a prompt, settings and what is restored are far less
_SIGN_OF_LIFE_SECONDS = 15.0
_UNHEARD_SECONDS = 60.0  # a page that asks and opens no stream for so long is not there
_STREAMS_AT_ONCE = 3  # of one browser: half of its connections stay free for what its tabs ask
_UNASKED_SECONDS = 300.0  # a page that gets pieces and asks for none is not there; hidden ones may be a minute late
AGAIN = "x-ask-again"  # the header of a piece
_EVENTS_AT_ONCE = 100  # of one page
_PAGES_AT_ONCE = 5000
_AHEAD = 50  # answers that a page has not read yet; then it gets no more until it has
_UNREAD_SECONDS = 0.1
_LONGEST_HASH = 100
_AS_THEY_ARE = ("choice", "pills", "slider")  # kinds of controls whose values are no texts
_SAME: Mapping[str, Any] = {"__type__": "update"}  # nothing about this box has changed
_HEADERS: Mapping[str, str] = {"cache-control": "no-store", "x-accel-buffering": "no"}


class _Session:
    """One open page: the events it waits for, and what its stream is to say."""

    def __init__(self) -> None:
        self.says: asyncio.Queue[bytes] = asyncio.Queue()
        self.events: dict[str, asyncio.Task[None]] = {}
        self.heard = False  # its stream has been opened
        self.unasked: asyncio.TimerHandle | None = None  # ends a page that gets pieces and asks for no more
        self._newest: dict[str, str] = {}  # the event that streams, by action

    def begin(self, action: Action, event: str) -> None:
        """Note that an event begins. Of an action that streams, the one before it ends: only the newest counts."""
        former = self._newest.get(action.name, "")
        if task := self.events.pop(former, None):
            task.cancel()
            self.say(former, "process_completed", {"success": True, "output": _output(_values(action, {}))})
        if action.streams:
            self._newest[action.name] = event

    def say(self, event: str, msg: str, words: Mapping[str, Any]) -> None:
        self.says.put_nowait(_line({"msg": msg, "event_id": event, **words}))


class _Stream(StreamingResponse):
    """A stream that says when it has ended, also when nothing of it was sent."""

    def __init__(self, body: AsyncIterator[bytes], ended: Callable[[], None]) -> None:
        super().__init__(body, media_type="text/event-stream", headers=_HEADERS)
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


class Protocol:
    """Answer the browser's scripts. ``functions`` gives the name of the action that each of their numbers means."""

    def __init__(self, functions: Mapping[int, str], once: Mapping[str, Once], again: Mapping[str, Again]) -> None:
        self._functions, self._once, self._again = functions, once, again
        self._sessions: dict[str, _Session] = {}
        self._streams: Counter[str] = Counter()  # that are open, by owner
        self.app_id = secrets.randbits(62)  # by it a page that lost its server knows whether it is the same one

    def routes(self) -> list[Route]:
        """Return the routes under which the scripts ask."""
        return [
            Route(f"{API}/run/{{name}}", self._run, methods=["POST"]),
            Route(f"{API}/queue/join", self._join, methods=["POST"]),
            Route(f"{API}/queue/data", self._stream),
            Route(f"{API}/app_id", self._told_id),
        ]

    async def _run(self, request: WebRequest) -> Response:
        asked = await self._asked(request)
        if asked is None:
            return _told({"detail": "This question cannot be read."}, status=422)
        action, given, session = asked
        if action.streams:
            return Response(status_code=404)
        answer = await self._do(action, given, _owner(request, session))
        return _told(_output(_values(action, answer)))

    async def _join(self, request: WebRequest) -> Response:
        asked = await self._asked(request)
        if asked is None or not asked[2]:
            return _told({"detail": "This question cannot be read."}, status=422)
        action, given, hash = asked
        known = self._sessions.get(hash)
        if len(known.events) >= _EVENTS_AT_ONCE if known else len(self._sessions) >= _PAGES_AT_ONCE:
            return Response(status_code=503)
        session = known or self._begin(hash)
        event = secrets.token_hex(16)
        session.begin(action, event)
        task = asyncio.create_task(self._work(session, event, action, given, _owner(request, hash)))
        session.events[event] = task
        task.add_done_callback(lambda done: _ended(session, event, done))
        return _told({"event_id": event})

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

    def _begin(self, hash: str) -> _Session:
        """Return a new page; it is forgotten if it does not open its stream."""
        session = self._sessions[hash] = _Session()
        asyncio.get_running_loop().call_later(_UNHEARD_SECONDS, self._forget_unheard, hash, session)
        return session

    def _forget_unheard(self, hash: str, session: _Session) -> None:
        if not session.heard:
            self._forget(hash, session)

    def _forget(self, hash: str, session: _Session) -> None:
        """A page is gone: end what it waits for. Its jobs go on."""
        if self._sessions.get(hash) is session:
            del self._sessions[hash]
        for task in [*session.events.values()]:
            task.cancel()

    async def _do(self, action: Action, given: Boxes, owner: str) -> Answer:
        return await anyio.to_thread.run_sync(self._once[action.name], given, owner)

    async def _work(self, session: _Session, event: str, action: Action, given: Boxes, owner: str) -> None:
        """Do what an event asks and say it to the page."""
        session.say(event, "process_starts", {"eta": None})
        told: list[Any] | None = None
        if action.streams:
            async for answer in self._again[action.name](given, owner):
                values = _values(action, answer)
                changes = values if told is None else [*map(_change, told, values)]
                told = values
                session.say(event, "process_generating", {"success": True, "output": _output(changes, more=True)})
                while session.says.qsize() > _AHEAD:  # a page that does not read: what it misses comes as one answer
                    await asyncio.sleep(_UNREAD_SECONDS)
        else:
            told = _values(action, await self._do(action, given, owner))
        output = _output(_values(action, {}) if told is None else told)
        session.say(event, "process_completed", {"success": True, "output": output})

    async def _stream(self, request: WebRequest) -> Response:
        hash = request.query_params.get("session_hash", "")
        session = self._sessions.get(hash)
        if session is None:  # it belongs to an earlier life of this program
            words = {"message": "404: Not Found", "success": False, "session_not_found": True}
            return Response(_line({"msg": "unexpected_error", **words}), media_type="text/event-stream")

        session.heard = True
        if session.unasked:
            session.unasked.cancel()
        owner = _owner(request, hash)
        if self._streams[owner] >= _STREAMS_AT_ONCE:
            return self._piece(hash, session)
        self._streams[owner] += 1

        async def say() -> AsyncIterator[bytes]:
            while True:
                try:
                    yield await asyncio.wait_for(session.says.get(), _SIGN_OF_LIFE_SECONDS)
                except TimeoutError:
                    yield _line({"msg": "heartbeat"})

        def end() -> None:
            self._streams[owner] -= 1
            if not self._streams[owner]:
                del self._streams[owner]
            self._forget(hash, session)

        return _Stream(say(), end)

    def _piece(self, hash: str, session: _Session) -> Response:
        """Return what there is to say now; the page asks again."""
        said = b"".join(session.says.get_nowait() for _ in range(session.says.qsize()))
        loop = asyncio.get_running_loop()
        session.unasked = loop.call_later(_UNASKED_SECONDS, self._forget, hash, session)
        return Response(said, media_type="text/event-stream", headers={**_HEADERS, AGAIN: "yes"})

    async def _told_id(self, request: WebRequest) -> Response:
        return _told({"app_id": self.app_id})


def _ended(session: _Session, event: str, done: asyncio.Task[None]) -> None:
    """Say that an event has failed, if it has."""
    session.events.pop(event, None)
    if done.cancelled() or (error := done.exception()) is None:
        return
    logging.getLogger("fooocus.ui").error("a question of the page was not answered", exc_info=error)
    session.say(event, "process_completed", {"success": False, "output": {"error": None}})


def _owner(request: WebRequest, session: str) -> str:
    """Return who asks: the browser's token, or, where cookies are off, this one page view."""
    return owner_of(request.headers.get("cookie", "")) or f"page-{session}"


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


def _change(before: Any, now: Any) -> list[Any]:
    return [] if before == now else [["replace", [], now]]


def _output(data: list[Any], *, more: bool = False) -> dict[str, Any]:
    """Return what the scripts read of an answer; ``more`` says that this event will answer again."""
    return {"data": data, "is_generating": more, "render_config": None, "changed_state_ids": []}


def _json(told: Any) -> bytes:
    # In ASCII, because a prompt may hold half of a surrogate pair, which UTF-8 cannot.
    return json.dumps(told, allow_nan=False, separators=(",", ":")).encode("ascii")


def _line(message: Mapping[str, Any]) -> bytes:
    return b"data: " + _json(message) + b"\n\n"


def _told(told: Any, *, status: int = 200) -> Response:
    return Response(_json(told), status, media_type="application/json", headers=_HEADERS)
