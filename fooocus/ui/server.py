"""The web server of the page: files that are ready, our own routes behind them, the guard in front of everything."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Mapping
from contextlib import closing

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request as WebRequest
from starlette.responses import FileResponse, Response

from fooocus.config import Config
from fooocus.errors import ConfigError, RequestError
from fooocus.images.library.library import Library
from fooocus.images.library.places import find_picture
from fooocus.jobs.store import State
from fooocus.jobs.supervisor import Jobs
from fooocus.models.computer import look
from fooocus.models.first_run import FirstRun
from fooocus.request import Request
from fooocus.ui.compiled import FOLDER as COMPILED
from fooocus.ui.compiled import compiled
from fooocus.ui.data import add_data_routes
from fooocus.ui.devices import add_device_routes
from fooocus.ui.estimate import Estimator
from fooocus.ui.files import Files, mark
from fooocus.ui.guard import WRONG_TRY_SECONDS, Guard
from fooocus.ui.kept import FOLDER as PEOPLE
from fooocus.ui.kept import Kept, add_kept_routes
from fooocus.ui.lists import Lists
from fooocus.ui.live import Live
from fooocus.ui.page import Page
from fooocus.ui.people import may_see
from fooocus.ui.pictures import add_picture_routes
from fooocus.ui.protocol import Protocol
from fooocus.ui.queue import add_queue_routes
from fooocus.ui.remedies import Remedies
from fooocus.ui.report import gather, report
from fooocus.ui.stream import Previews, Watcher
from fooocus.ui.welcome import Welcome, measured_seconds

PORTS_TRIED = 100
_CONNECTIONS = 8192
GOODBYE_SECONDS = 1  # what is still being answered then is not waited for

# What is set where there is a screen: the last by a person, or a program, who names the browser.
_SCREENS = ("DISPLAY", "WAYLAND_DISPLAY", "WSL_DISTRO_NAME", "BROWSER")
_MEDIA: Mapping[str, str] = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp"}
_FINISHED: tuple[State, ...] = ("finished",)
_FILE_HEADERS: Mapping[str, str] = {
    "content-security-policy": "sandbox; default-src 'none'",
    "cache-control": "private, max-age=31536000",
}


def serve(
    config: Config,
    jobs: Jobs,
    defaults: Request,
    *,
    ready: Callable[[str], None],
    first_run: FirstRun | None = None,
    spare: Request | None = None,
) -> None:
    """Serve the page until Ctrl-C. ``ready`` is called with its address once it answers.

    With ``first_run`` the page says what this computer can do, and gets the model files that are missing; until they
    are here it begins with ``spare`` in place of ``defaults``.

    Raises :class:`~fooocus.errors.ConfigError` when no port can be had.
    """
    allow_many_connections()
    if sys.platform == "win32":
        logging.getLogger("asyncio").addFilter(_is_no_goodbye)
    with closing(bind(config.host, config.port)) as listener, closing(Library(config.outputs, config.data)) as library:
        port = listener.getsockname()[1]
        url = address(config.host, port)

        def answer() -> None:
            library.begin()
            ready(url)
            if config.browser:
                open_browser(url)

        app = build_app(config, jobs, defaults, port=port, first_run=first_run, library=library, spare=spare)
        options = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            ws="none",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=GOODBYE_SECONDS,
        )
        try:
            _Server(options, answer, app.goodbye).run(sockets=[listener])
        except KeyboardInterrupt:
            return  # uvicorn has already closed everything and raises the signal again


def build_app(
    config: Config,
    jobs: Jobs,
    defaults: Request,
    *,
    port: int,
    first_run: FirstRun | None = None,
    library: Library | None = None,
    spare: Request | None = None,
    wrong_try_seconds: float = WRONG_TRY_SECONDS,
) -> Guard:
    """Return the whole page as an ASGI application that answers under ``port``.

    Without a ``library`` it knows no pictures but those of its jobs. Where the page has not been compiled before,
    gradio is imported here, so its environment variables must be set before.
    """
    previews = Previews()
    app = Starlette()
    _add_routes(app, config, jobs, previews)
    estimator = Estimator(config, jobs, defaults)
    add_queue_routes(app, jobs, estimator.course)
    add_device_routes(app, config, port, jobs.orders.adopt)
    kept = Kept(config.data / PEOPLE)
    kept.sweep()
    add_kept_routes(app, kept)
    if library:
        add_picture_routes(app, config, library)
    lists = Lists(config, defaults, first_run.shelves if first_run else None)

    def tell(id: str, request: WebRequest) -> str | None:
        if not _owns(request, jobs, id):
            return None
        return report(*gather(config, look(config.models), jobs.job(id), lists.names()))

    add_data_routes(app, lists, tell)

    def measure() -> float | None:
        return measured_seconds(jobs.jobs(states=_FINISHED, limit=100), defaults)

    welcome = Welcome(first_run, measure, spare)
    watcher = Watcher(jobs, previews, config.outputs, course=estimator.course)
    page = Page(config, jobs, defaults, watcher, welcome, Remedies(jobs, first_run, spare), estimator)
    made = compiled(defaults, models=welcome.knows_models, folder=config.data / COMPILED)
    protocol, served = Protocol(made.functions, page.once()), mark(made)
    live = Live(page.watch, page.follow, served)
    app.router.routes.extend([*protocol.routes(), live.route()])
    files = Files(app, made, protocol.app_id, served)
    return Guard(files, config, port, seconds=wrong_try_seconds, goodbye=live.close)


def _is_no_goodbye(record: logging.LogRecord) -> bool:
    """Leave out what Windows' event loop says whenever a tab is closed: that the other side has hung up."""
    return not (record.exc_info and isinstance(record.exc_info[1], ConnectionResetError))


def allow_many_connections() -> None:
    """Let this process hold more connections than systems allow a program that does not ask: 256 on macOS.

    A browser opens up to seven, so a hundred people need 700. Windows has no such limit.
    """
    if sys.platform == "win32":
        return
    import resource

    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _CONNECTIONS if most == resource.RLIM_INFINITY else min(_CONNECTIONS, most)
    if now != resource.RLIM_INFINITY and now < wanted:
        with contextlib.suppress(OSError, ValueError):  # then it stays as it is
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def open_browser(url: str, environment: Mapping[str, str] = os.environ, system: str = sys.platform) -> None:
    """Open the page in the person's browser, where there is a screen for it; nothing waits for that.

    Systems other than Windows and macOS say whether there is one. Without it, a browser in letters would take the
    terminal.
    """
    if system in ("win32", "darwin") or any(environment.get(name) for name in _SCREENS):
        # A browser may take seconds to start, and the server answers nobody while its loop waits.
        threading.Thread(target=webbrowser.open, args=(url,), name="open the browser", daemon=True).start()


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket on ``port`` or the next free one; port 0 leaves the choice to the system."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    problem: OSError | None = None
    candidates = [0] if port == 0 else [*range(port, min(port + PORTS_TRIED, 65536))]
    if sys.platform == "win32":
        candidates.append(0)  # Hyper-V takes ports by the hundred
    for candidate in candidates:
        # Named as TCP, because asyncio sets TCP_NODELAY only then: without it the second packet of an answer, which is
        # its body, waits for the browser's word that the first has come, 40 ms on Linux.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        if sys.platform == "win32":  # there SO_REUSEADDR would share the port with another program
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host.strip("[]"), candidate))
            listener.listen(2048)
        except OSError as error:
            listener.close()
            problem = error
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                break
        else:
            return listener
    raise ConfigError([f"the page cannot be served on {host}, port {port}: {problem}."])


def address(host: str, port: int) -> str:
    """Return the address to open in a browser on this machine."""
    if host in ("0.0.0.0", "::", ""):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it answers and when it begins to end."""

    def __init__(self, config: uvicorn.Config, answers: Callable[[], None], ends: Callable[[], None]) -> None:
        super().__init__(config)
        self._answers, self._ends = answers, ends

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if not self.should_exit:
            self._answers()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._ends()
        await super().shutdown(sockets=sockets)


def _add_routes(app: Starlette, config: Config, jobs: Jobs, previews: Previews) -> None:
    """Add what the page loads besides Gradio's own files."""

    def picture(request: WebRequest) -> Response:
        file = find_picture(config.outputs, request.path_params["day"], request.path_params["name"])
        if file is None:
            return Response(status_code=404)
        return FileResponse(file, media_type=_MEDIA[file.suffix], headers=_FILE_HEADERS)

    def preview(request: WebRequest) -> Response:
        job = request.path_params["job"]
        frame = previews.get(job)
        if frame is None or not _owns(request, jobs, job):
            return Response(status_code=404)
        return Response(frame, media_type="image/jpeg", headers={"cache-control": "no-store"})

    app.add_route("/pictures/{day}/{name}", picture, methods=["GET"])
    app.add_route("/preview/{job}", preview, methods=["GET"])


def _owns(request: WebRequest, jobs: Jobs, id: str) -> bool:
    """Whether the job belongs to who asks."""
    try:
        return may_see(request, jobs.job(id).owner)
    except RequestError:
        return False
