"""What the server does around the page: ports, addresses, the document's head."""

from __future__ import annotations

import asyncio
import queue
import socket
import subprocess
import sys
import threading

import pytest

from fooocus.errors import ConfigError
from fooocus.ui.server import address, bind, open_browser
from fooocus.ui.shell import dress


def test_a_taken_port_is_left_to_its_owner_and_the_next_is_used() -> None:
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with bind("127.0.0.1", port) as second:
            assert port < second.getsockname()[1] <= port + 100


def test_answers_go_out_at_once() -> None:
    """asyncio sets TCP_NODELAY on connections of a socket that is named as TCP, and on no others."""

    async def answered() -> int:
        told = asyncio.get_running_loop().create_future()

        def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            told.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with bind("127.0.0.1", 0) as listener:
            server = await asyncio.start_server(greet, sock=listener)
            _, writer = await asyncio.open_connection(*listener.getsockname())
            found = int(await told)
            writer.close()
            server.close()
        return found

    assert asyncio.run(answered()) != 0


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit")
def test_a_hundred_people_may_come_where_a_program_begins_with_256_files() -> None:
    program = (
        "import resource; most = resource.getrlimit(resource.RLIMIT_NOFILE)[1];"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, most));"
        "from fooocus.ui.server import allow_many_connections; allow_many_connections();"
        "now = resource.getrlimit(resource.RLIMIT_NOFILE)[0];"
        "print(now == -1 or now >= min(8192, most if most != -1 else 8192))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("True", "")


_CLOSED = """
import os, signal, sys, uvicorn
from fooocus.app import ended_by_signals

number = signal.Signals[sys.argv[1]]
before = signal.getsignal(number)

class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)

    async def shutdown(self, sockets=None):
        print("said goodbye")
        await super().shutdown(sockets)

with ended_by_signals():
    try:
        Server(uvicorn.Config(lambda scope: None, port=0, lifespan="off", log_level="warning")).run()
    except KeyboardInterrupt:
        print("interrupted")
        os.kill(os.getpid(), number)
        print("put back")
print(signal.getsignal(number) == before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there a program can send itself none of them")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_closed_window_runs_the_ordinary_end_once(name: str) -> None:
    done = subprocess.run([sys.executable, "-c", _CLOSED, name], capture_output=True, text=True, timeout=60)
    assert (done.stdout.split("\n")[:4], done.stderr) == (["said goodbye", "interrupted", "put back", "True"], "")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
def test_what_nohup_ignores_stays_ignored() -> None:
    program = (
        "import os, signal; from fooocus.app import ended_by_signals; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "with ended_by_signals(): os.kill(os.getpid(), signal.SIGHUP); print('goes on')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("goes on", "")


def test_an_address_that_is_not_ours_is_an_error_in_words() -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1"):
        bind("192.0.2.1", 7865)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:7865/"),
        ("0.0.0.0", "http://127.0.0.1:7865/"),
        ("::", "http://127.0.0.1:7865/"),
        ("::1", "http://[::1]:7865/"),
        ("desk.local", "http://desk.local:7865/"),
    ],
)
def test_the_address_to_open(host: str, url: str) -> None:
    assert address(host, 7865) == url


@pytest.mark.parametrize(
    ("system", "environment", "opens"),
    [
        ("linux", {}, False),
        ("linux", {"DISPLAY": ""}, False),
        ("linux", {"DISPLAY": ":0"}, True),
        ("linux", {"WAYLAND_DISPLAY": "wayland-0"}, True),
        ("linux", {"WSL_DISTRO_NAME": "Ubuntu"}, True),
        ("linux", {"BROWSER": "firefox"}, True),
        ("darwin", {}, True),
        ("win32", {}, True),
    ],
)
def test_a_browser_is_opened_where_there_is_a_screen_and_is_not_waited_for(
    system: str, environment: dict[str, str], opens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: queue.SimpleQueue[str] = queue.SimpleQueue()
    started = threading.Event()

    def start(url: str) -> None:
        started.wait(20)
        opened.put(url)

    monkeypatch.setattr("webbrowser.open", start)
    open_browser("http://127.0.0.1/", environment, system)
    assert opened.empty()
    assert ("open the browser" in [thread.name for thread in threading.enumerate()]) == opens
    started.set()
    if opens:
        assert opened.get(timeout=20) == "http://127.0.0.1/"


def test_an_ipv6_address_can_be_bound() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        listener = bind("::1", 0)
    except ConfigError:
        pytest.skip("no IPv6 loopback here")
    listener.close()


def test_our_head_comes_first_and_foreign_descriptions_go() -> None:
    html = (
        '<html><head><meta property="og:image" content="https://x/y.png" /><title>t</title></head><body>b</body></html>'
    )
    dressed = dress(html, "the mark")
    assert "https://x" not in dressed and '<meta name="fooocus-page" content="the mark">' in dressed
    assert dressed.index("/ui/page.css") < dressed.index("<title>")
    assert dressed.endswith("<body>b</body></html>")
