"""Jobs without a worker: a test says what happens to them, in memory."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Collection
from typing import Any

from fooocus.errors import RequestError
from fooocus.events import LAST, Event
from fooocus.jobs.census import Around, Census
from fooocus.jobs.store import Job
from fooocus.jobs.supervisor import WorkerState


class FakeJobs:
    """Has the methods of the real ``Jobs`` that the page uses; :meth:`say` is the worker."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.all: dict[str, Job] = {}
        self.said: dict[str, list[tuple[int, Event]]] = {}
        self.cancelled: list[str] = []
        self.listeners: dict[str, set[Callable[[], object]]] = {}
        self.renewed = 0
        self.orders = self

    def submit(self, request: dict[str, Any], owner: str, *, replaces: str | None = None) -> str:
        id = f"job-{len(self.all) + 1}"
        self.all[id] = Job(id, owner, request, "waiting", len(self.all), len(self.all), 0, None, None, None, ())
        self.said[id] = []
        return id

    def say(self, id: str, *events: Event) -> None:
        with self.changed:
            for event in events:
                self.said[id].append((len(self.said[id]) + 1, event))
                state = type(event).__name__.lower() if isinstance(event, LAST) else "running"
                self.all[id] = dataclasses.replace(self.all[id], state=state)
            self.changed.notify_all()
            for heard in self.listeners.get(id, set()):
                heard()

    def listen(self, id: str, heard: Callable[[], object]) -> Callable[[], None]:
        self.listeners.setdefault(id, set()).add(heard)
        return lambda: self.listeners[id].discard(heard)

    def around(self, owner: str) -> Around:
        rows = ((job.owner, job.id, job.state) for job in self.all.values())
        return Census(rows, ()).around(owner)

    def job(self, id: str) -> Job:
        if id not in self.all:
            raise RequestError("job", f"There is no job {id}.")
        return self.all[id]

    def jobs(self, owner: str | None = None, states: Collection[str] | None = None, *, limit: int = 1000) -> list[Job]:
        found = [j for j in self.all.values() if owner in (None, j.owner) and (states is None or j.state in states)]
        return sorted(found, key=lambda job: job.position, reverse=states is None)[:limit]

    def events(self, id: str, after: int = 0, timeout: float = 0.0) -> list[tuple[int, Event]]:
        with self.changed:
            self.changed.wait_for(lambda: len(self.said[id]) > after, timeout)
            return self.said[id][after:]

    def cancel(self, id: str) -> bool:
        self.cancelled.append(id)
        return True

    def skip(self, id: str) -> bool:
        return True

    def adopt(self, old: str, new: str) -> None:
        for id, job in self.all.items():
            self.all[id] = dataclasses.replace(job, owner=new if job.owner == old else job.owner)

    def held(self, owner: str) -> bool:
        return False

    def renew(self) -> bool:
        self.renewed += 1
        return True

    def worker_state(self) -> WorkerState:
        return WorkerState("ready")
