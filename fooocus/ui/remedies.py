"""What the buttons of a failed job do: ask for the same, for less, of another model, or fetch what was missing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from fooocus.errors import FooocusError, RequestError
from fooocus.jobs.store import Job
from fooocus.jobs.supervisor import Jobs
from fooocus.models.catalogue import Entry, load_catalogue, wanted_by
from fooocus.models.first_run import FirstRun
from fooocus.request import Request
from fooocus.ui.faults import smaller
from fooocus.ui.meanwhile import drawn_by


class Remedies:
    """Carry out the buttons' orders. Without ``first_run`` nothing can be fetched; ``spare`` can always draw."""

    def __init__(self, jobs: Jobs, first_run: FirstRun | None, spare: Request | None = None) -> None:
        self._jobs, self._first_run, self._spare = jobs, first_run, spare

    def offers(self, request: Mapping[str, Any]) -> frozenset[str]:
        """Return which remedies there are here for a job whose request lacks a model."""
        spare = self._spare is not None and request.get("base") != self._spare.base
        offers = {"fetch": bool(self.fetchable(request)), "miniature": spare}
        return frozenset(name for name, there in offers.items() if there)

    def fetchable(self, request: Mapping[str, Any]) -> tuple[Entry, ...]:
        """Return the files of the catalogue that a job's request wants and that are not there."""
        if self._first_run is None:
            return ()
        try:
            wanted = wanted_by(_request(request), load_catalogue())
        except FooocusError:
            return ()
        here = {file.name.rpartition("/")[2] for file in self._first_run.shelves.found if not file.content.problem}
        return tuple(entry for entry in wanted if entry.name not in here)

    def order(self, text: str, owner: str) -> str | None:
        """Carry out an order, JSON with ``do`` and ``job``; return the id of the new job if one was made.

        Raises :class:`~fooocus.errors.FooocusError` when it cannot be done. What is no order is passed over.
        """
        do, id = _read(text)
        if not do:
            return None
        job = self._jobs.job(id)
        if job.owner != owner:
            raise RequestError("job", "This job is not yours.", "Make one of your own.")
        match do:
            case "free":
                self._jobs.renew()
                return self._jobs.submit(job.request, owner)
            case "retry" | "again":
                return self._jobs.submit(job.request, owner)
            case "smaller":
                return self._jobs.submit(_smaller(job), owner)
            case "miniature" if self._spare is not None:
                return self._jobs.submit(drawn_by(_request(job.request), self._spare).to_json(), owner)
            case "fetch" if self._first_run is not None:
                self._first_run.need([entry.name for entry in self.fetchable(job.request)])
        return None


def _request(values: Mapping[str, Any]) -> Request:
    """Read a job's request, which an older version may have written: what it did not know is as it begins."""
    return Request.from_json({**Request().to_json(), **values})


def _smaller(job: Job) -> dict[str, Any]:
    request = _request(job.request)
    less = smaller(request.size)
    if less is None:
        raise RequestError("size", "There is no smaller size that can be drawn.", "Choose a smaller model.")
    return dataclasses.replace(request, size=less).to_json()


def _read(text: str) -> tuple[str, str]:
    """Read an order. It comes from a browser and may be anything."""
    try:
        values = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return "", ""
    if not isinstance(values, dict):
        return "", ""
    return str(values.get("do", "")), str(values.get("job", ""))
