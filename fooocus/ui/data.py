"""Routes by which the page asks for lists (``/ui/lists/models``, ``styles``, ``presets``) and for a job's report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import Request as WebRequest
from starlette.responses import Response

from fooocus.ui.lists import Lists


def add_data_routes(
    app: Starlette, lists: Lists, tell: Callable[[str, WebRequest], str | None] = lambda job, request: None
) -> None:
    """Add the routes. An answer that the browser has already is not sent again.

    ``tell`` gives the report of a job to whom it belongs, and nothing to others.
    """

    def report(request: WebRequest) -> Response:
        text = tell(request.path_params["job"], request)
        if text is None:
            return Response(status_code=404)
        body = text.encode("utf-8", "replace")
        return Response(body, media_type="text/plain; charset=utf-8", headers={"cache-control": "no-store"})

    def answer(request: WebRequest) -> Response:
        found = lists.answer(request.path_params["what"], fresh="fresh" in request.query_params)
        if found is None:
            return Response(status_code=404)
        # What is no text, such as half of a sign in a style's name, becomes a question mark.
        body = json.dumps(found, ensure_ascii=False).encode("utf-8", "replace")
        headers = {"etag": f'"{hashlib.sha256(body).hexdigest()[:32]}"', "cache-control": "private, no-cache"}
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        return Response(body, media_type="application/json", headers=headers)

    app.add_route("/ui/report/{job}", report, methods=["GET"])
    app.add_route("/ui/lists/{what}", answer, methods=["GET"])
