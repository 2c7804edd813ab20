"""What the page asks about pictures that were made: lists, thumbnails, settings, favourites, deleting.

All of it stands behind the guard, and pictures have no owner: whoever has the password sees, marks and deletes all that
this installation has made. A picture is named by its day and file name, never by a path; an uploaded one is read
for its texts alone, in memory, and no pixel of it is decoded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.requests import Request as WebRequest
from starlette.responses import FileResponse, Response

from fooocus.config import Config
from fooocus.errors import FooocusError, RequestError, StorageError
from fooocus.images.containers import strict_json
from fooocus.images.findings import Known
from fooocus.images.foreign import read_pasted, read_settings
from fooocus.images.library.entry import Entry
from fooocus.images.library.library import Library, State
from fooocus.images.library.places import Place, find_picture, parse_place
from fooocus.images.library.search import Query
from fooocus.images.library.thumbnails import key_of
from fooocus.prompt.stock import load_stock
from fooocus.ui.body import read_body
from fooocus.ui.choices import style_titles
from fooocus.ui.resolve import to_json

MAX_UPLOAD_BYTES = 25_000_000
MAX_TEXT_BYTES = 1_000_000
MAX_ORDER_BYTES = 200_000
MAX_TAKE = 500
MAX_DELETED = 500
_ALT_CHARACTERS = 160
_MAKERS = 2  # thumbnails that are made at a time; others wait without keeping the page's threads
_UNCHECKED = Known()
_NO_SETTINGS = RequestError(
    "picture", "No settings were found in it.", "Choose a picture as it was saved; many sites and chats take them out."
)
_THUMBNAIL_HEADERS: Mapping[str, str] = {
    "content-security-policy": "sandbox; default-src 'none'",
    "cache-control": "private, max-age=31536000, immutable",
}


def add_picture_routes(app: Starlette, config: Config, library: Library) -> None:
    """Add everything that the page asks about pictures."""
    _add_lists(app, config, library)
    _add_thumbnails(app, library)
    _add_orders(app, library)
    _add_settings(app, config, library)


def _add_lists(app: Starlette, config: Config, library: Library) -> None:
    def state(request: WebRequest) -> Response:
        return _told(lambda: _state(library.state()))

    def overview(request: WebRequest) -> Response:
        def answer() -> dict[str, Any]:
            found = library.overview(_query(request))
            return _state(found.state) | {"days": found.days}

        return _told(answer)

    def page(request: WebRequest) -> Response:
        def answer() -> dict[str, Any]:
            day = request.query_params.get("day", "")
            skip, take = _whole(request, "skip", 2**31), _whole(request, "take", MAX_TAKE)
            return {"pictures": [_entry(entry) for entry in library.page(_query(request), day, skip, take)]}

        return _told(answer)

    def filters(request: WebRequest) -> Response:
        def answer() -> dict[str, Any]:
            query, day = _query(request), request.query_params.get("day", "")
            titles = style_titles(load_stock(config.styles_folder).styles)
            styles = [(name, many, titles.get(name, name)) for name, many in library.styles(query, day)]
            return {"models": library.models(query, day), "styles": styles}

        return _told(answer)

    for name, answering in (("state", state), ("overview", overview), ("page", page), ("filters", filters)):
        app.add_route(f"/history/{name}", answering, methods=["GET"])


def _add_thumbnails(app: Starlette, library: Library) -> None:
    makers: list[anyio.CapacityLimiter] = []  # made in the server's loop, on the first request

    async def thumbnail(request: WebRequest) -> Response:
        if not makers:
            makers.append(anyio.CapacityLimiter(_MAKERS))
        made = await anyio.to_thread.run_sync(partial(_thumbnail, library, _named(request)), limiter=makers[0])
        if made is None:
            return Response(status_code=404)
        return FileResponse(made, media_type="image/jpeg", headers=_THUMBNAIL_HEADERS)

    app.add_route("/thumbnails/{day}/{name}", thumbnail, methods=["GET"])


def _add_orders(app: Starlette, library: Library) -> None:
    """Add what changes something: POST alone, from this page alone, as the guard sees to."""

    async def favourite(request: WebRequest) -> Response:
        def mark(order: Any) -> dict[str, Any]:
            place, on = _place(order.get("picture")), order.get("on")
            if not isinstance(on, bool) or find_picture(library.outputs, *place) is None:
                raise RequestError("picture", "This picture is not there any more.")
            library.mark(place, on=on)
            return {"favourite": on}

        return await _ordered(request, mark)

    async def delete(request: WebRequest) -> Response:
        def remove(order: Any) -> dict[str, Any]:
            names = order.get("pictures")
            if not isinstance(names, list) or not 0 < len(names) <= MAX_DELETED:
                raise RequestError("picture", f"From 1 to {MAX_DELETED} pictures can be deleted at a time.")
            token, taken = library.delete([_place(name) for name in names])
            return {"undo": token, "pictures": [str(place) for place in taken]}

        return await _ordered(request, remove)

    async def undo(request: WebRequest) -> Response:
        def put_back(order: Any) -> dict[str, Any]:
            return {"pictures": [str(place) for place in library.undo(str(order.get("undo", "")))]}

        return await _ordered(request, put_back)

    for name, ordered in (("favourite", favourite), ("delete", delete), ("undo", undo)):
        app.add_route(f"/history/{name}", ordered, methods=["POST"])


def _add_settings(app: Starlette, config: Config, library: Library) -> None:
    def details(request: WebRequest) -> Response:
        def answer() -> dict[str, Any]:
            place = _named(request)
            file, entry = find_picture(config.outputs, *place), library.find(place)
            if file is None or entry is None:
                raise RequestError("picture", "This picture is not there any more.", "It may be in the bin.")
            return _entry(entry) | {"day": place.day, "bytes": entry.seen.size_bytes} | _settings(file, config)

        return _told(answer)

    async def read(request: WebRequest) -> Response:
        is_text = request.headers.get("content-type", "").startswith("text/plain")
        limit = MAX_TEXT_BYTES if is_text else MAX_UPLOAD_BYTES
        try:
            body = await _body(request, limit)
        except RequestError as error:
            return _refused(error, 413)

        def answer() -> dict[str, Any]:
            source = body.decode("utf-8", "replace") if is_text else body
            found = read_pasted(source, _UNCHECKED) if isinstance(source, str) else read_settings(source, _UNCHECKED)
            if found is None or (not found.values and not found.warnings):
                raise _NO_SETTINGS
            return to_json(found, config, source)

        return await anyio.to_thread.run_sync(_told, answer)

    app.add_route("/history/details/{day}/{name}", details, methods=["GET"])
    app.add_route("/history/read", read, methods=["POST"])


def _query(request: WebRequest) -> Query:
    """Return which pictures are asked for."""
    asked = request.query_params
    favourite = asked.get("favourite", "").lower() in ("true", "1", "on", "yes")
    return Query(asked.get("words", ""), asked.get("model", ""), asked.get("style", ""), favourite)


def _whole(request: WebRequest, name: str, most: int) -> int:
    """Return a whole number that is asked with, from 0 to ``most``."""
    text = request.query_params.get(name, "")
    if not re.fullmatch(r"-?\d{1,18}", text, re.ASCII):
        raise RequestError("picture", "There is no such picture.")
    return min(max(int(text), 0), most)


def _named(request: WebRequest) -> Place:
    """Return the place in a path. Whether a picture is there, and may be, is looked at when it is looked for."""
    return Place(request.path_params["day"], request.path_params["name"])


def _settings(file: Path, config: Config) -> dict[str, Any]:
    """Return the settings inside a picture; a picture without any, or with damaged ones, is a picture all the same."""
    try:
        found = read_settings(file, _UNCHECKED)
    except RequestError as error:
        return {"warnings": [str(error)]}
    return to_json(found, config, file) if found else {}


def _thumbnail(library: Library, place: Place) -> Path | None:
    file = find_picture(library.outputs, *place)
    if file is None:
        return None
    try:
        entry = library.find(place)
    except StorageError:
        return None
    return library.thumbnails.get(place, entry.seen) if entry else None


def _state(state: State) -> dict[str, Any]:
    return {
        "version": state.version,
        "pictures": state.pictures,
        "unread": state.unread,
        "missing": state.missing,
        "today": f"{datetime.now():%Y-%m-%d}",
    }


def _entry(entry: Entry) -> dict[str, Any]:
    prompt = " ".join(entry.prompt.split())
    seconds = entry.clock_ms // 1000
    return {
        "picture": str(entry.place),
        "stamp": key_of(entry.place, entry.seen)[:8],
        "width": entry.width,
        "height": entry.height,
        "alt": prompt if len(prompt) <= _ALT_CHARACTERS else prompt[: _ALT_CHARACTERS - 1] + "…",
        "time": f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}",
        "seed": entry.seed,
        "favourite": entry.favourite,
    }


def _place(text: Any) -> Place:
    place = parse_place(text) if isinstance(text, str) else None
    if place is None:
        raise RequestError("picture", "There is no such picture.")
    return place


async def _body(request: WebRequest, limit: int) -> bytes:
    """Return what was sent, if it is not more than ``limit`` bytes."""
    body = await read_body(request, limit)
    if body is None:
        sentence = f"It is larger than {limit // 1_000_000} MB."
        raise RequestError("picture", sentence, "Choose the picture as it was saved.")
    return body


async def _ordered(request: WebRequest, do: Any) -> Response:
    """Read an order and carry it out in a thread."""
    try:
        order = strict_json((await _body(request, MAX_ORDER_BYTES)).decode("utf-8"))
    except (ValueError, RequestError):
        order = None
    if not isinstance(order, dict):
        return _refused(RequestError("picture", "This order cannot be read."), 400)
    return await anyio.to_thread.run_sync(_told, partial(do, order))


def _told(answer: Any) -> Response:
    """Return what ``answer`` gives as JSON, or its error as a sentence."""
    try:
        # In ASCII, because a prompt may hold half of a surrogate pair, which UTF-8 cannot.
        told = json.dumps(answer(), allow_nan=False)
        return Response(told, media_type="application/json", headers={"cache-control": "no-store"})
    except RequestError as error:
        return _refused(error, 422)
    except FooocusError as error:
        return _refused(error, 503)


def _refused(error: FooocusError, status: int) -> Response:
    told = {"sentence": error.sentence, "remedy": error.remedy}
    return Response(json.dumps(told), status_code=status, media_type="application/json")
