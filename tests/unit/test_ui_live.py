"""What open pages are told without asking, with speakers of the test's own and without a network."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette

from fooocus.errors import StorageError
from fooocus.ui import live as live_module
from fooocus.ui.live import Live


class Tab:
    """Listens as a page does. ``hurried`` ones read at once, others when they are told to."""

    def __init__(self, live: Live, query: str, cookie: str = "", *, hurried: bool = True) -> None:
        self._app = Starlette(routes=[live.route()])
        self._query, self._cookie = query, cookie
        self.heard: list[tuple[str, Any]] = []
        self.signs = 0
        self.reads = anyio.Event()
        self.closed = anyio.Event()
        if hurried:
            self.reads.set()

    async def listen(self) -> None:
        async def receive() -> dict[str, Any]:
            await self.closed.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message.get("body"):
                await self.reads.wait()
            for event in message.get("body", b"").decode("ascii").split("\n\n"):
                self.signs += event == ":"
                if event.startswith("event: "):
                    kind, data = event.split("\n")
                    self.heard.append((kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))))

        scope = {
            "type": "http",
            "method": "GET",
            "path": "/live",
            "query_string": self._query.encode(),
            "client": CLIENT,
        }
        headers = [(b"cookie", self._cookie.encode())] if self._cookie else []
        await self._app(scope | {"headers": headers, "asgi": {"spec_version": "2.3"}}, receive, send)

    async def until(self, *heard: Any) -> None:
        with anyio.fail_after(20):
            while not all(one in self.heard for one in heard):
                await anyio.sleep(0.005)


CLIENT = ("127.0.0.1", 50000)
NEWS = {"status": "ready", "first": "", "arrived": ""}
MARK = "page one"
PAUSE = ("pause", live_module._GLANCE_SECONDS)


async def endless() -> AsyncIterator[dict[str, str]]:
    yield NEWS
    await anyio.sleep_forever()


def visit(
    watch: Callable[..., Any], follow: Callable[..., Any], query: str, act: Callable[[Tab], Any], **how: Any
) -> Tab:
    """Open a tab, do what the test wants, close it."""
    made: list[Tab] = []

    async def live() -> None:
        tab = Tab(Live(watch, follow, MARK), query, **how)
        made.append(tab)
        async with anyio.create_task_group() as group:
            group.start_soon(tab.listen)
            await act(tab)
            tab.closed.set()

    anyio.run(live)
    return made[0]


def test_a_stream_says_what_is_new_and_ends_with_its_page() -> None:
    ended: list[str] = []

    async def watch(ids: list[str], owner: str) -> AsyncIterator[str]:
        yield f"{ids} \ud800 \n{owner}"

    async def follow() -> AsyncIterator[dict[str, str]]:
        try:
            yield NEWS
            await anyio.sleep_forever()
        finally:
            ended.append("news")

    async def act(tab: Tab) -> None:
        await tab.until(("stage", "['a', 'b'] \ud800 \npage-1"), ("news", NEWS), ("page", MARK))
        assert ended == []

    visit(watch, follow, "tab=a+b&me=page-1", act)
    assert ended == ["news"]


@pytest.mark.parametrize(
    ("query", "cookie", "owner"),
    [
        ("tab=a&me=page-x", "fooocus_owner=QUJDREVGR0hJSktMTU5PUA", "QUJDREVGR0hJSktMTU5PUA"),
        ("tab=a&me=page-x", "", "page-x"),
        ("tab=a&me=QUJDREVGR0hJSktMTU5PUA", "", ""),  # nobody takes another's cookie for a name
        ("tab=a&me=page-" + "x" * 200, "", ""),
        ("tab=a", "", ""),
    ],
)
def test_who_listens(query: str, cookie: str, owner: str) -> None:
    asked: list[str] = []

    async def watch(ids: list[str], owner: str) -> AsyncIterator[str]:
        asked.append(owner)
        yield "seen"

    async def act(tab: Tab) -> None:
        await tab.until(("stage", "seen"))

    visit(watch, endless, query, act, cookie=cookie)
    assert asked == [owner]


def test_a_page_that_does_not_read_piles_up_nothing_and_then_sees_the_newest() -> None:
    said = 0

    async def watch(ids: list[str], owner: str) -> AsyncIterator[str]:
        nonlocal said
        for said in range(500):
            yield str(said)
            await anyio.sleep(0)

    async def act(tab: Tab) -> None:
        while said < 499:
            await anyio.sleep(0.005)
        tab.reads.set()
        await tab.until(("stage", "499"))

    tab = visit(watch, endless, "tab=a", act, hurried=False)
    assert len([kind for kind, _ in tab.heard if kind == "stage"]) <= 3


def test_without_jobs_nothing_is_watched_and_a_silent_stream_shows_that_it_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live_module, "_SIGN_OF_LIFE_SECONDS", 0.01)

    async def act(tab: Tab) -> None:
        while tab.signs < 3:
            await anyio.sleep(0.005)

    def watch(ids: list[str], owner: str) -> AsyncIterator[str]:
        raise AssertionError("there is nothing to watch")

    assert visit(watch, endless, "tab=", act).heard == [("page", MARK), ("news", NEWS)]


async def nothing(ids: list[str], owner: str) -> AsyncIterator[str]:
    for html in ():
        yield html


async def a_picture(ids: list[str], owner: str) -> AsyncIterator[str]:
    await anyio.sleep(0.05)
    yield "a picture"
    await anyio.sleep_forever()


COOKIE = "fooocus_owner=QUJDREVGR0hJSktMTU5PUA"


@pytest.mark.parametrize("cookie", [COOKIE, ""], ids=["by cookie", "by address"])
@pytest.mark.parametrize(("watch", "seen"), [(a_picture, [("stage", "a picture")]), (nothing, [])])
def test_a_browser_holds_four_and_the_oldest_makes_room_for_the_newest(
    watch: Any, seen: list[Any], cookie: str
) -> None:
    everything = [("page", MARK), ("news", NEWS), *seen]

    async def listen() -> None:
        live = Live(watch, endless, MARK)

        def tab(page: object, more: str = "") -> Tab:
            return Tab(live, f"tab=a&page={page}{more}", cookie)

        async with anyio.create_task_group() as group:
            tabs = [tab(number) for number in range(live_module.CONNECTIONS)]
            for one in tabs:
                group.start_soon(one.listen)
                await one.until(*everything)

            again = tab(1)  # other jobs, the same tab: it is told before its old stream ends, and nobody has to go
            group.start_soon(again.listen)
            await again.until(*everything)
            tabs[1].closed.set()
            other = Tab(live, "tab=a&page=x", "fooocus_owner=" + "A" * 24)  # another person's
            group.start_soon(other.listen)
            await other.until(*everything)
            assert all(PAUSE not in one.heard for one in (*tabs, again, other)), "nobody was sent away"

            newest = tab("new")
            group.start_soon(newest.listen)
            await newest.until(*everything)
            await tabs[0].until(PAUSE)
            assert [PAUSE in one.heard for one in (*tabs[1:], again, newest, other)] == [False] * 6

            with anyio.fail_after(20):
                waiting = tab(0, "&waits=1")
                await waiting.listen()  # which is the server's end of it: the page has not closed
            assert waiting.heard == [*everything, PAUSE]

            tabs[2].closed.set()
            await anyio.wait_all_tasks_blocked()
            waiting = tab(0, "&waits=1")
            group.start_soon(waiting.listen)
            await waiting.until(*everything)
            await anyio.sleep(0.1)
            assert PAUSE not in waiting.heard, "there is a place now"
            for one in (*tabs, again, other, newest, waiting):
                one.closed.set()
        assert live._held == {}

    anyio.run(listen)


def test_the_servers_end_is_the_end_of_every_stream() -> None:
    async def listen() -> None:
        live = Live(a_picture, endless, MARK)
        tabs = [Tab(live, f"tab=a&page={number}", COOKIE) for number in range(3)]
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                for one in tabs:
                    group.start_soon(one.listen)
                    await one.until(("news", NEWS))
                live.close()  # no page has closed
            await Tab(live, "tab=a&page=late", COOKIE).listen()
        assert all(PAUSE not in one.heard for one in tabs) and live._held == {}

    anyio.run(listen)


def test_one_that_breaks_is_logged_and_the_page_may_ask_anew(caplog: pytest.LogCaptureFixture) -> None:
    async def watch(ids: list[str], owner: str) -> AsyncIterator[str]:
        yield "a picture"
        raise StorageError("No.", "Yes.")

    async def listen() -> list[tuple[str, Any]]:
        tab = Tab(Live(watch, endless, MARK), "tab=a")
        with anyio.fail_after(20):
            await tab.listen()
        return tab.heard

    assert ("stage", "a picture") in anyio.run(listen)
    assert "was not told any more" in caplog.text


def test_news_that_break_again_and_again_are_logged_once_and_pictures_are_still_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "_NEWS_AGAIN_SECONDS", 0.01)
    tries = 0

    async def follow() -> AsyncIterator[dict[str, str]]:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise OSError("the drive has gone")
        yield NEWS
        await anyio.sleep_forever()

    async def watch(ids: list[str], owner: str) -> AsyncIterator[str]:
        while tries < 4:
            await anyio.sleep(0.005)
        yield "a picture"
        await anyio.sleep_forever()

    async def act(tab: Tab) -> None:
        await tab.until(("stage", "a picture"), ("news", NEWS))

    visit(watch, follow, "tab=a", act)
    assert tries == 4 and caplog.text.count("was not told any more") == 1
