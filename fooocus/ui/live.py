"""What an open page is told without asking: its stage, the worker's state, the files that are missing.

One stream of server-sent events a tab (``live.js`` reads it): ``stage`` and ``news`` carry what stands in their places,
``page`` says which page the program serves now, because an open one may be of an older program. Each event is whole, so
of several that a page has not read yet only the newest is kept. A tab whose jobs change asks anew.

A browser has six connections to one address, and its tabs may hold four of them: the newest, and those in which
something is done. For each that comes the oldest is sent away. ``pause`` says after how many seconds it may look again;
it then says that it ``waits``, is told what there is, and goes once more unless there is a place.

These do not go through Gradio's own queue, where each answer costs the browser twice the work
(`benchmarks/open_page.py`) and every tab holds a connection, whatever happens.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.requests import Request as WebRequest
from starlette.responses import StreamingResponse
from starlette.routing import Route

from fooocus.ui.people import asker, cookie_owner

ADDRESS = "/live"
_SIGN_OF_LIFE_SECONDS = 15.0
KEPT_IDS = 50  # jobs that a tab remembers; the pictures of older ones are in the outputs folder
CONNECTIONS = 4
"""That the tabs of one browser may hold; what is left is for all else that a page asks."""
_GLANCE_SECONDS = 1.5
_NEWS_AGAIN_SECONDS = 1.0
_LONGEST_NAME = 120
_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}

Watch = Callable[[list[str], str], AsyncIterator[str]]
Follow = Callable[[], AsyncIterator[dict[str, str]]]


class Live:
    """Tell open pages. ``watch`` yields the stage of a person's jobs, as HTML, until the last has ended; ``follow``
    yields all other news, without end. ``mark`` is another for every page that a program may serve."""

    def __init__(self, watch: Watch, follow: Follow, mark: str) -> None:
        self._watch, self._follow, self._mark = watch, follow, mark
        self._held: dict[str, list[_Desk]] = {}  # by browser, the oldest first
        self._over = False
        self._broken = ""  # why the news broke off last: what breaks each second is logged once

    def route(self) -> Route:
        """Return the route under which pages listen."""
        return Route(ADDRESS, self._listen)

    def close(self) -> None:
        """End all streams, which would hold up a server that waits for its connections. To be called in its loop."""
        self._over = True
        for held in self._held.values():
            for desk in held:
                desk.ring()

    async def _listen(self, request: WebRequest) -> StreamingResponse:
        ids = request.query_params.get("tab", "").split()[-KEPT_IDS:]
        # A person's devices share the cookie, but each has connections of its own.
        browser = f"{cookie_owner(request)} {request.client.host if request.client else ''}"
        desk = _Desk(request.query_params.get("page", "")[:_LONGEST_NAME])
        told = self._tell(ids, asker(request), browser, desk, waits="waits" in request.query_params)
        return StreamingResponse(told, media_type="text/event-stream", headers=_HEADERS)

    async def _tell(
        self, ids: list[str], owner: str, browser: str, desk: _Desk, *, waits: bool
    ) -> AsyncIterator[bytes]:
        """Yield events until the page has gone; who is sent away hears from everybody before."""
        self._take_place(browser, desk, waits=waits)
        speakers = {"news": asyncio.create_task(desk.hear("news", self._follow()))}
        if ids:
            speakers["stage"] = asyncio.create_task(desk.hear("stage", self._watch(ids, owner)))
        silent = {*speakers}
        try:
            yield _event("page", self._mark)
            while not self._over and (silent or not desk.sent_away):
                words = await desk.read()
                ended = {kind for kind, speaker in speakers.items() if speaker.done()}
                silent -= words.keys() | ended  # perhaps nothing was there to be watched
                yield b"".join(_event(kind, said) for kind, said in words.items()) or b":\n\n"
                for kind in ended:
                    if (error := speakers[kind].exception()) is None:
                        continue
                    if kind != "news" or repr(error) != self._broken:
                        logging.getLogger("fooocus.ui").error("a page was not told any more", exc_info=error)
                    if kind != "news":
                        return  # the page asks anew
                    self._broken = repr(error)  # without news, a page still sees its pictures
                    again = desk.hear("news", self._follow(), after=_NEWS_AGAIN_SECONDS)
                    speakers["news"] = asyncio.create_task(again)
            if not self._over:
                yield _event("pause", _GLANCE_SECONDS)
        finally:
            for speaker in speakers.values():
                speaker.cancel()
            held = self._held[browser]
            held.remove(desk)
            if not held:
                del self._held[browser]

    def _take_place(self, browser: str, desk: _Desk, *, waits: bool) -> None:
        """Give a tab its place: that of its last stream, a free one, or the oldest tab's unless it waits."""
        held = self._held.setdefault(browser, [])
        others = list(dict.fromkeys(one.tab for one in held if one.tab != desk.tab and not one.sent_away))
        too_many = others[: max(0, len(others) - CONNECTIONS + 1)]
        held.append(desk)
        if too_many and waits:
            desk.send_away()
            return
        for one in held:
            if one.tab in too_many:
                one.send_away()


class _Desk:
    """Where those who have something to say to a tab lay it down: the newest of each kind, in the order of their first
    word."""

    def __init__(self, tab: str) -> None:
        self.tab = tab
        self.sent_away = False
        self._words: dict[str, Any] = {}
        self._rings = asyncio.Event()

    async def hear(self, kind: str, told: AsyncIterator[Any], *, after: float = 0.0) -> None:
        """Take all that somebody says, from ``after`` so many seconds; ring also at the end of it."""
        try:
            await asyncio.sleep(after)
            async for said in told:
                self._words[kind] = said
                self._rings.set()
        finally:
            self._rings.set()

    def send_away(self) -> None:
        """Let the stream end as soon as all is said."""
        self.sent_away = True
        self._rings.set()

    def ring(self) -> None:
        """Wake the reader, though there is nothing new."""
        self._rings.set()

    async def read(self) -> dict[str, Any]:
        """Return what has been laid down; nothing after a while without any."""
        try:
            await asyncio.wait_for(self._rings.wait(), _SIGN_OF_LIFE_SECONDS)
        except TimeoutError:
            return {}
        self._rings.clear()
        words, self._words = self._words, {}
        return words


def _event(kind: str, said: Any) -> bytes:
    # In ASCII, because a prompt may hold half of a surrogate pair, which UTF-8 cannot.
    return f"event: {kind}\ndata: {json.dumps(said)}\n\n".encode("ascii")
