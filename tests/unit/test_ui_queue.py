"""The queue as a person sees and orders it: own jobs only, others as a number, estimates from this machine alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from fooocus.errors import RequestError
from fooocus.jobs.store import Job, JobStore
from fooocus.jobs.supervisor import Jobs
from fooocus.models.pace import Estimate
from fooocus.request import Request
from fooocus.ui.estimate import Course
from fooocus.ui.guard import OWNER_COOKIE
from fooocus.ui.queue import CourseOf, Lines, add_queue_routes, obeyed
from fooocus.ui.queue import panel as panel_of

ME, YOU = "me" * 10, "you" * 7
SLEEPER = [sys.executable, "-c", "import sys; sys.stdin.read()"]  # a worker that never becomes ready


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    store = JobStore(tmp_path / "jobs.sqlite")
    jobs = Jobs(store, SLEEPER, None, tmp_path / "worker.log")
    yield jobs
    jobs.close()
    store.close()


def nothing(job: Job) -> None:
    """No history yet."""


def panel(jobs: Jobs, owner: str, course: CourseOf) -> dict[str, Any]:
    return panel_of(jobs, owner, Lines(jobs, course).now())


def ask(jobs: Jobs, owner: str, prompt: str, **values: Any) -> str:
    return jobs.submit(Request(prompt=prompt, seed=2**60, **values).to_json(), owner)


def prompts(told: dict[str, Any]) -> list[str]:
    return [job["prompt"] for job in told["jobs"]]


def test_own_jobs_are_shown_and_others_counted(jobs: Jobs) -> None:
    ask(jobs, YOU, "secret")
    mine = ask(jobs, ME, "fox", count=3)
    ask(jobs, YOU, "secret too")
    ask(jobs, ME, "owl")
    told = panel(jobs, ME, nothing)
    assert "secret" not in json.dumps(told)
    assert [(job["prompt"], job["count"], job["others"]) for job in told["jobs"]] == [("fox", 3, 1), ("owl", 1, 2)]
    assert told["others"] == 2
    with pytest.raises(RequestError, match="no job"):
        obeyed(jobs, YOU, {"do": "cancel", "jobs": [mine]})
    with pytest.raises(RequestError):
        obeyed(jobs, "", {"do": "pause", "jobs": [mine]})
    assert jobs.job(mine).state == "waiting"


def test_orders_are_carried_out_and_taken_back(jobs: Jobs) -> None:
    a, b, c = (ask(jobs, ME, name) for name in "abc")
    obeyed(jobs, ME, {"do": "arrange", "jobs": [c, a, b]})
    assert prompts(panel(jobs, ME, nothing)) == ["c", "a", "b"]
    obeyed(jobs, ME, {"do": "pause", "jobs": [c]})
    assert [(job["prompt"], job["state"]) for job in panel(jobs, ME, nothing)["jobs"]][-1] == ("c", "paused")
    undo = obeyed(jobs, ME, {"do": "cancel all"})
    assert panel(jobs, ME, nothing)["jobs"] == []
    back = {"do": "restore", "jobs": [one["job"] for one in undo], "states": [one["state"] for one in undo]}
    obeyed(jobs, ME, back)
    told = panel(jobs, ME, nothing)
    assert [(job["prompt"], job["state"]) for job in told["jobs"]] == [
        ("a", "waiting"),
        ("b", "waiting"),
        ("c", "paused"),
    ]
    obeyed(jobs, ME, {"do": "resume", "jobs": [c]})
    assert prompts(panel(jobs, ME, nothing)) == ["c", "a", "b"], "it has kept its place"
    obeyed(jobs, ME, {"do": "hold"})
    assert panel(jobs, ME, nothing)["held"] and not panel(jobs, YOU, nothing)["held"]
    obeyed(jobs, ME, {"do": "let go"})
    assert not panel(jobs, ME, nothing)["held"]


@pytest.mark.parametrize("order", [{}, {"do": "fly"}, {"do": "cancel", "jobs": "x"}, {"do": "cancel", "jobs": [1]}])
def test_what_is_no_order_is_refused_in_words(jobs: Jobs, order: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        obeyed(jobs, ME, order)


def test_waits_are_the_courses_of_those_before(jobs: Jobs) -> None:
    """Each job's own estimate; what one has loaded, the next one of the same models need not load again."""
    ask(jobs, ME, "first")
    assert panel(jobs, ME, nothing)["jobs"][0]["begins"] is None, "nothing was measured yet"
    ask(jobs, YOU, "second", count=2)
    ask(jobs, ME, "third")
    other = ask(jobs, ME, "fourth", base="another")
    last = ask(jobs, ME, "last")

    def course(job: Job) -> Course | None:
        models = str(job.request["base"])
        return Course(Estimate(4.0, 3.0, 2.0, 1.0, 7.0, 5), int(job.request["count"]), 30, 20, models)

    told = {job["prompt"]: (job["seconds"], job["begins"]) for job in panel(jobs, ME, course)["jobs"]}
    assert told == {
        "first": (17.0, 0.0),
        "third": (10.0, 37.0),
        "fourth": (17.0, 47.0),
        "last": (17.0, 64.0),
    }
    unknown = panel(jobs, ME, lambda job: None if job.id == other else course(job))["jobs"]
    assert [job["begins"] for job in unknown] == [0.0, 37.0, None, None], "behind the unknown everything is unknown"
    obeyed(jobs, ME, {"do": "pause", "jobs": [last]})
    assert panel(jobs, ME, course)["jobs"][-1]["begins"] is None


def test_the_routes_answer_the_cookies_owner_only(jobs: Jobs) -> None:
    app = Starlette()
    add_queue_routes(app, jobs, nothing)
    mine = ask(jobs, ME, "fox")
    client = TestClient(app, cookies={OWNER_COOKIE: ME})
    assert prompts(client.get("/queue").json()) == ["fox"]
    values = client.get(f"/queue/settings/{mine}").json()["values"]
    assert (values["prompt"], values["seed"]) == ("fox", str(2**60))
    told = client.post("/queue", json={"do": "cancel", "jobs": [mine]}).json()
    assert told["undo"] == [{"job": mine, "state": "waiting"}] and told["jobs"] == []
    assert client.post("/queue", content=b"[").json()["sentence"] == "The order cannot be read."
    assert client.post("/queue", content=b"[" * 200_000).status_code == 413
    other = TestClient(app, cookies={OWNER_COOKIE: YOU})
    assert other.get(f"/queue/settings/{mine}").status_code == 422
    assert other.get("/queue").json()["jobs"] == []


def test_the_line_is_read_anew_only_after_a_change(jobs: Jobs) -> None:
    asked: list[str] = []
    lines = Lines(jobs, lambda job: asked.append(job.id))
    first = ask(jobs, ME, "fox")
    assert [job.id for job, _ in lines.now()] == [first] and lines.now() is lines.now() and asked == [first]
    second = ask(jobs, YOU, "owl")
    assert [job.id for job, _ in lines.now()] == [first, second]
    jobs.cancel(first)
    assert [job.id for job, _ in lines.now()] == [second]
