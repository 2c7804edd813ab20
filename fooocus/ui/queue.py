"""The queue as the page shows it: a person's own jobs, what each waits for, and the orders that may be given.

Every answer is about the jobs of the browser that asks. Of other people's jobs it learns how many come before.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import anyio.to_thread
from starlette.applications import Starlette
from starlette.requests import Request as WebRequest
from starlette.responses import JSONResponse, Response

from fooocus.errors import FooocusError, RequestError
from fooocus.jobs.store import Job, State
from fooocus.jobs.supervisor import Jobs
from fooocus.request import Request
from fooocus.ui.body import read_body
from fooocus.ui.estimate import Course
from fooocus.ui.people import asker

MAX_BYTES = 100_000
_LIVING: tuple[State, ...] = ("running", "waiting", "paused")
_RESTING: tuple[State, ...] = ("waiting", "paused")
_PROMPT_CHARACTERS = 300
_TIMES_SECONDS = 2.0  # how old an estimate may be while nothing changes


CourseOf = Callable[[Job], Course | None]


def add_queue_routes(app: Starlette, jobs: Jobs, course: CourseOf) -> None:
    """Add what the queue panel asks: GET shows, POST orders and shows. ``course`` tells how long a job takes."""
    lines = Lines(jobs, course)

    def show(request: WebRequest) -> Response:
        return _told(lambda: panel(jobs, asker(request), lines.now()))

    async def order(request: WebRequest) -> Response:
        body = await read_body(request, MAX_BYTES)
        if body is None:
            return Response(status_code=413)
        owner = asker(request)

        def obey() -> dict[str, Any]:
            undo = obeyed(jobs, owner, _order(body))
            return panel(jobs, owner, lines.now()) | {"undo": undo}

        return await anyio.to_thread.run_sync(_told, obey)

    def settings(request: WebRequest) -> Response:
        def answer() -> dict[str, Any]:
            asked = _mine(jobs, asker(request), request.path_params["id"]).request
            known = Request().to_json()
            values = {name: value for name, value in asked.items() if name in known}
            # A browser's numbers end at 2**53.
            return {"values": values | {"seed": None if values.get("seed") is None else str(values["seed"])}}

        return _told(answer)

    app.add_route("/queue", show, methods=["GET"])
    app.add_route("/queue", order, methods=["POST"])
    app.add_route("/queue/settings/{id}", settings, methods=["GET"])


Line = Sequence[tuple[Job, Course | None]]  # all people's living jobs in the order in which they run, and their times


class Lines:
    """Read the line. Every open page asks for it every few seconds, so one serves all until something changes."""

    def __init__(self, jobs: Jobs, course: CourseOf) -> None:
        self._jobs, self._course = jobs, course
        self._known: tuple[int, float, Line] | None = None  # after how many changes it was read, when, what

    def now(self) -> Line:
        """Return the line as it is now; its times may be a few seconds old."""
        changes, now = self._jobs.store.changes, time.monotonic()  # before reading: later changes are seen later
        known = self._known
        if known is None or known[0] != changes or now - known[1] > _TIMES_SECONDS:
            living = self._jobs.jobs(states=_LIVING)
            line = sorted(living, key=lambda job: (_LIVING.index(job.state), job.position))
            known = self._known = changes, now, [(job, self._course(job)) for job in line]
        return known[2]


def panel(jobs: Jobs, owner: str, line: Line) -> dict[str, Any]:
    """Return a person's queue: jobs in the order in which they run, with estimates in seconds where there are any."""
    held = jobs.around(owner).held
    shown: list[dict[str, Any]] = []
    ahead, models = 0, None
    wait: float | None = 0.0  # unknown behind a job of which nothing is known
    for job, told in line:
        # What the job before it has loaded need not be loaded again.
        seconds = None if told is None else told.drawing_seconds if told.models == models else told.seconds
        begins = None if seconds is None or job.state == "paused" or held else wait
        if job.owner == owner:
            shown.append(_shown(job, seconds, begins) | {"others": ahead})
        else:
            ahead += job.state != "paused"
        if job.state != "paused":
            models = told and told.models
            wait = None if seconds is None or wait is None else wait + _left(job, seconds)
    return {"held": held, "jobs": shown, "others": ahead}


def obeyed(jobs: Jobs, owner: str, order: Mapping[str, Any]) -> list[dict[str, str]]:
    """Carry out an order; return what must be sent to undo it: jobs, and the state each was in.

    Raises :class:`~fooocus.errors.RequestError` for an order that is none, or is about another person's job.
    """
    named = [_mine(jobs, owner, id) for id in _ids(order)]
    match order.get("do"):
        case "pause":
            for job in named:
                jobs.orders.pause(job.id)
        case "resume":
            for job in named:
                jobs.orders.resume(job.id)
        case "arrange":
            jobs.orders.arrange(owner, [job.id for job in named])
        case "hold":
            jobs.orders.hold(owner)
        case "let go":
            jobs.orders.let_go(owner)
        case "cancel":
            return list(_cancelled(jobs, named))
        case "cancel all":
            return list(_cancelled(jobs, jobs.jobs(owner, _RESTING)))
        case "restore":
            states = order.get("states")
            for job, state in zip(named, states if isinstance(states, list) else [], strict=False):
                jobs.orders.restore(job.id, paused=state == "paused")
        case _:
            raise RequestError("order", "The program does not know this order.", "Reload the page.")
    return []


def _shown(job: Job, seconds: float | None, begins: float | None) -> dict[str, Any]:
    asked = Request().to_json() | job.request
    place = job.paused if job.state != "running" else None
    return {
        "id": job.id,
        "state": job.state,
        "prompt": str(asked["prompt"])[:_PROMPT_CHARACTERS],
        "count": asked["count"],
        "size": str(asked["size"]),
        "seconds": seconds,
        "begins": begins,
        "saved": len(job.saved),
        "step": place.step if place else 0,
        "steps": place.steps if place else 0,
    }


def _left(job: Job, seconds: float) -> float:
    """Return what is left of a job's time."""
    if job.state == "running" and job.started_ms is not None:
        return max(0.0, seconds - (time.time() - job.started_ms / 1000))
    return seconds


def _cancelled(jobs: Jobs, named: Sequence[Job]) -> Iterator[dict[str, str]]:
    """Cancel jobs; what can be undone is that of a resting one."""
    for job in named:
        if jobs.cancel(job.id) and job.state in _RESTING:
            yield {"job": job.id, "state": job.state}


def _mine(jobs: Jobs, owner: str, id: str) -> Job:
    """Return a person's own job; another one's is as unknown as one that never was."""
    job = jobs.job(id)
    if not owner or job.owner != owner:
        raise RequestError("job", f"There is no job {id}.")
    return job


def _order(body: bytes) -> dict[str, Any]:
    try:
        order = json.loads(body)
    except (ValueError, RecursionError):
        order = None
    if not isinstance(order, dict):
        raise RequestError("order", "The order cannot be read.", "Reload the page.")
    return order


def _ids(order: Mapping[str, Any]) -> list[str]:
    ids = order.get("jobs", [])
    if not isinstance(ids, list) or not all(isinstance(id, str) for id in ids):
        raise RequestError("order", "The order cannot be read.", "Reload the page.")
    return ids


def _told(answer: Any) -> Response:
    """Return an answer as JSON, or the error that it raised as a sentence."""
    try:
        return JSONResponse(answer(), headers={"cache-control": "no-store"})
    except RequestError as error:
        status, fault = 422, error
    except FooocusError as error:
        status, fault = 503, error  # type: ignore[assignment]
    return JSONResponse({"sentence": fault.sentence, "remedy": fault.remedy}, status_code=status)
