"""What an open page is told without asking: its stage, the worker's state, the files that are missing.

One stream of server-sent events a tab (``live.js`` reads it): ``stage`` and ``news`` carry what stands in their places,
``over`` says that the last job watched has ended. Each event is whole, so of several that a page has not read yet only
the newest is kept. A tab whose jobs change asks anew. One that finds its browser's connections taken only glances: it
is told what there is now, and the stream ends.

These do not go through Gradio's own queue, where each answer costs the browser twice the work
(`benchmarks/open_page.py`) and every tab holds one of the browser's six connections, whatever happens.
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

from fooocus.ui.guard import owner_of

ADDRESS = "/live"
NO_COOKIE = "page-"
"""How the name of somebody begins whose browser keeps no cookies, and who is known by this one page view."""
_SIGN_OF_LIFE_SECONDS = 15.0
KEPT_IDS = 50  # jobs that a tab remembers; the pictures of older ones are in the outputs folder
_LONGEST_NAME = 120
_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}

Watch = Callable[[list[str], str], AsyncIterator[str]]
Follow = Callable[[], AsyncIterator[dict[str, str]]]


class Live:
    """Tell open pages. ``watch`` yields the stage of a person's jobs, as HTML, until the last has ended; ``follow``
    yields all other news, without end."""

    def __init__(self, watch: Watch, follow: Follow) -> None:
        self._watch, self._follow = watch, follow

    def route(self) -> Route:
        """Return the route under which pages listen."""
        return Route(ADDRESS, self._listen)

    async def _listen(self, request: WebRequest) -> StreamingResponse:
        ids = request.query_params.get("tab", "").split()[-KEPT_IDS:]
        me = request.query_params.get("me", "")
        nobody = me if me.startswith(NO_COOKIE) and len(me) <= _LONGEST_NAME else ""
        owner = owner_of(request.headers.get("cookie", "")) or nobody
        told = self._tell(ids, owner, glance="glance" in request.query_params)
        return StreamingResponse(told, media_type="text/event-stream", headers=_HEADERS)

    async def _tell(self, ids: list[str], owner: str, *, glance: bool) -> AsyncIterator[bytes]:
        """Yield events until the page has gone; a glance ends when everybody has said something."""
        desk = _Desk()
        speakers = [asyncio.create_task(desk.news(self._follow()))]
        if ids:
            speakers.append(asyncio.create_task(desk.stage(self._watch(ids, owner))))
        silent = {"news", "stage"} if ids else {"news"}
        try:
            while not (glance and not silent):
                words = await desk.read()
                silent -= words.keys()
                if "over" in words:  # perhaps nothing was there to be watched
                    silent.discard("stage")
                yield b"".join(_event(kind, said) for kind, said in words.items()) or b":\n\n"
                for speaker in speakers:
                    if speaker.done() and (error := speaker.exception()) is not None:
                        logging.getLogger("fooocus.ui").error("a page was not told any more", exc_info=error)
                        return  # the page asks anew
        finally:
            for speaker in speakers:
                speaker.cancel()


class _Desk:
    """Where those who have something to say lay it down: the newest of each kind, in the order of their first word."""

    def __init__(self) -> None:
        self._words: dict[str, Any] = {}
        self._rings = asyncio.Event()

    def lay(self, kind: str, said: Any) -> None:
        self._words[kind] = said
        self._rings.set()

    async def stage(self, views: AsyncIterator[str]) -> None:
        try:
            async for html in views:
                self.lay("stage", html)
            self.lay("over", True)
        finally:
            self._rings.set()

    async def news(self, told: AsyncIterator[dict[str, str]]) -> None:
        try:
            async for news in told:
                self.lay("news", news)
        finally:
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
