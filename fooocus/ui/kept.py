"""What a person has typed and set, kept on the server: it comes back after a crash, and on the same person's phone.

One small file a person, named by a hash of their cookie, because the cookie itself opens their jobs. The browser's own
copy stays the fast one; which of the two is newer follows from their ages, so that no two clocks are compared.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

import anyio.to_thread
from starlette.applications import Starlette
from starlette.requests import Request as WebRequest
from starlette.responses import JSONResponse, Response

from fooocus.ui.body import read_body
from fooocus.ui.people import cookie_owner

FOLDER = "people"
MAX_BYTES = 400_000
_FORGOTTEN_SECONDS = 400 * 24 * 3600  # as long as a browser keeps its cookie


class Kept:
    """The settings of all people, in ``folder``. What cannot be read or written is as good as not kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()

    def put(self, owner: str, values: dict[str, Any]) -> bool:
        """Keep a person's values in place of the former ones; return whether that worked."""
        file = self._file(owner)
        part = file.with_suffix(".part")
        text = json.dumps({"saved_ms": time.time_ns() // 1_000_000, "values": values}, ensure_ascii=False)
        with self._lock:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                with part.open("w", encoding="utf-8", errors="replace") as out:
                    out.write(text)
                    out.flush()
                    os.fsync(out.fileno())
                os.replace(part, file)
            except OSError as error:
                _log().warning("settings are not kept: %s", error)
                return False
        return True

    def get(self, owner: str) -> dict[str, Any]:
        """Return ``values`` and ``age_ms``, or nothing when nothing is kept."""
        try:
            kept = json.loads(self._file(owner).read_text(encoding="utf-8"))
            age_ms = time.time_ns() // 1_000_000 - int(kept["saved_ms"])
            values = kept["values"]
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            _log().warning("kept settings cannot be read: %r", error)
            return {}
        return {"values": values, "age_ms": max(0, age_ms)} if isinstance(values, dict) else {}

    def sweep(self) -> None:
        """Forget people who have not been here for longer than their cookie lives."""
        oldest = time.time() - _FORGOTTEN_SECONDS
        try:
            for file in self._folder.iterdir() if self._folder.is_dir() else ():
                if file.stat().st_mtime < oldest:
                    file.unlink(missing_ok=True)
        except OSError as error:
            _log().warning("old settings are not swept: %s", error)

    def _file(self, owner: str) -> Path:
        return self._folder / f"{hashlib.sha256(owner.encode()).hexdigest()[:40]}.json"


def add_kept_routes(app: Starlette, kept: Kept) -> None:
    """Add the way from the browser to what is kept for it, and back."""

    def get(request: WebRequest) -> Response:
        owner = cookie_owner(request)
        return JSONResponse(kept.get(owner) if owner else {}, headers={"cache-control": "no-store"})

    async def put(request: WebRequest) -> Response:
        owner = cookie_owner(request)
        body = await read_body(request, MAX_BYTES)
        if body is None:
            return Response(status_code=413)
        try:
            values = json.loads(body)
        except (ValueError, RecursionError):
            values = None
        if not owner or not isinstance(values, dict):
            return Response(status_code=400)
        done = await anyio.to_thread.run_sync(kept.put, owner, values)
        return Response(status_code=204 if done else 503)

    app.add_route("/kept", get, methods=["GET"])
    app.add_route("/kept", put, methods=["POST"])


def _log() -> logging.Logger:
    return logging.getLogger("fooocus.ui")
