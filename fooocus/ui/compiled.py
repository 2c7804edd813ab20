"""The page as bytes: what Gradio makes of our layout, made once and kept.

Building the page with Gradio takes two to three seconds, nearly all of them for importing it, and gives the same bytes
every time. So they are kept in the data folder, under a key of everything that they depend on: our source files,
Gradio's version, and the settings that the page begins with. A start that finds them needs no Gradio at all, neither
then nor later, because what the page asks is answered by :mod:`fooocus.ui.protocol`.

The bytes are the same for everybody. Where the address of the page belongs, the browser's own is put by a script.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fooocus.request import Request

FOLDER = "page"
SOURCE = Path(__file__).resolve().parents[1]
_HOST = "page.invalid"  # stands where the address of the page belongs; no real address looks like it
ORIGIN = f"http://{_HOST}"
_WAYS_OUT = (
    *(name for low in ("http_proxy", "https_proxy", "all_proxy", "no_proxy") for name in (low, low.upper())),
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
)
_KEPT = 8  # pages of other settings; a person goes back and forth between few


@dataclasses.dataclass(frozen=True)
class Compiled:
    """The document of ``/``, the configuration in it as JSON, the colours as CSS, and what its function numbers mean.

    ``origin`` stands for the address of the page, ``app_id`` for the number of this life of the program.
    """

    document: str
    config: str
    theme: str
    functions: Mapping[int, str]
    app_id: int


def compiled(defaults: Request, *, models: bool, folder: Path) -> Compiled:
    """Return the page of ``defaults``, from ``folder`` if it is there, else made with Gradio and kept there.

    ``models`` says whether the page tells of missing model files.
    """
    file = folder / f"{_key(defaults, models)}.json"
    kept = load(file)
    if kept is None:
        kept = make(defaults, models=models)
        _keep(file, kept)
    return kept


def frontend() -> Path:
    """Return the folder in which Gradio keeps what its page loads. Gradio is not imported for it."""
    found = importlib.util.find_spec("gradio")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("gradio is not installed", name="gradio")
    return Path(found.submodule_search_locations[0]) / "templates" / "frontend"


def make(defaults: Request, *, models: bool) -> Compiled:
    """Build the page with Gradio."""
    with _without_ways_out():
        # Outside of a running event loop gradio makes several of its own and closes none.
        return asyncio.run(_make(defaults, models))


@contextlib.contextmanager
def _without_ways_out() -> Iterator[None]:
    """Hide how this computer reaches the network.

    Gradio prepares for it as it is imported, and a proxy of a kind it does not know, or certificates that are gone,
    would be the end of it. The page needs no network.
    """
    hidden = {name: os.environ.pop(name) for name in _WAYS_OUT if name in os.environ}
    os.environ["no_proxy"] = "*"
    try:
        yield
    finally:
        del os.environ["no_proxy"]
        os.environ.update(hidden)


async def _make(defaults: Request, models: bool) -> Compiled:
    import gradio as gr
    from starlette.applications import Starlette

    from fooocus.ui.layout import Layout
    from fooocus.ui.theme import make_theme

    blocks = Layout(defaults, models=models).build()
    app: Any = gr.mount_gradio_app(
        Starlette(),
        blocks,
        path="/",
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=make_theme(),
    )
    document, config, theme = [await _get(app, path) for path in ("/", "/config", "/theme.css")]
    functions = {id: function.name for id, function in blocks.fns.items() if function.fn is not None}
    return Compiled(document, config, theme, functions, int(json.loads(config)["app_id"]))


async def _get(app: Any, path: str) -> str:
    """Ask an application in this process for a text."""
    body = b""
    status = 0

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        nonlocal body, status
        status = message.get("status", status)
        body += message.get("body", b"")

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("ascii"),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", _HOST.encode("ascii"))],
        "client": ("127.0.0.1", 0),
        "server": (_HOST, 80),
    }
    await app(scope, receive, send)
    if status != 200:
        raise RuntimeError(f"Gradio answers {path} with {status}")
    return body.decode("utf-8")


def _key(defaults: Request, models: bool) -> str:
    """Return a name for everything that the compiled page depends on."""
    told = hashlib.sha256()
    for file in sorted(SOURCE.rglob("*.py")):
        told.update(file.relative_to(SOURCE).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    version = importlib.metadata.version("gradio")
    told.update(json.dumps([sys.version, version, str(frontend()), defaults.to_json(), models]).encode())
    return told.hexdigest()[:32]


def load(file: Path) -> Compiled | None:
    """Return what is kept; a file that is not what it should be counts as none."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        functions = {int(id): str(name) for id, name in values["functions"].items()}
        texts = [str(values[name]) for name in ("document", "config", "theme")]
        return Compiled(texts[0], texts[1], texts[2], functions, int(values["app_id"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        logging.getLogger("fooocus.ui").warning("the kept page %s cannot be read: %r", file, error)
        return None


def _keep(file: Path, page: Compiled) -> None:
    """Keep a page for the next start, and few of older ones. One that cannot be kept is made again."""
    part = file.with_suffix(f".{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(dataclasses.asdict(page)), encoding="utf-8")
        os.replace(part, file)
        others = sorted(file.parent.glob("*.json"), key=lambda other: other.stat().st_mtime, reverse=True)
        for old in others[_KEPT:]:
            old.unlink(missing_ok=True)
    except OSError as error:
        logging.getLogger("fooocus.ui").warning("the page is not kept: %s", error)
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
