"""The queue as a person sees and orders it: own jobs only, others as a number, estimates from this machine alone."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from fooocus.errors import RequestError
from fooocus.events import Finished, Saved
from fooocus.jobs.store import JobStore
from fooocus.jobs.supervisor import Jobs
from fooocus.request import Request
from fooocus.ui.guard import OWNER_COOKIE
from fooocus.ui.queue import add_queue_routes, obeyed, pace_of, panel, work_of

ME, YOU = "me" * 10, "you" * 7
SLEEPER = [sys.executable, "-c", "import sys; sys.stdin.read()"]  # a worker that never becomes ready


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    store = JobStore(tmp_path / "jobs.sqlite")
    jobs = Jobs(store, SLEEPER, None, tmp_path / "worker.log")
    yield jobs
    jobs.close()
    store.close()


def ask(jobs: Jobs, owner: str, prompt: str, **values: Any) -> str:
    return jobs.submit(Request(prompt=prompt, seed=2**60, **values).to_json(), owner)


def prompts(told: dict[str, Any]) -> list[str]:
    return [job["prompt"] for job in told["jobs"]]


def test_own_jobs_are_shown_and_others_counted(jobs: Jobs) -> None:
    ask(jobs, YOU, "secret")
    mine = ask(jobs, ME, "fox", count=3)
    ask(jobs, YOU, "secret too")
    ask(jobs, ME, "owl")
    told = panel(jobs, ME)
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
    assert prompts(panel(jobs, ME)) == ["c", "a", "b"]
    obeyed(jobs, ME, {"do": "pause", "jobs": [c]})
    assert [(job["prompt"], job["state"]) for job in panel(jobs, ME)["jobs"]][-1] == ("c", "paused")
    undo = obeyed(jobs, ME, {"do": "cancel all"})
    assert panel(jobs, ME)["jobs"] == []
    back = {"do": "restore", "jobs": [one["job"] for one in undo], "states": [one["state"] for one in undo]}
    obeyed(jobs, ME, back)
    told = panel(jobs, ME)
    assert [(job["prompt"], job["state"]) for job in told["jobs"]] == [
        ("a", "waiting"),
        ("b", "waiting"),
        ("c", "paused"),
    ]
    obeyed(jobs, ME, {"do": "resume", "jobs": [c]})
    assert prompts(panel(jobs, ME)) == ["c", "a", "b"], "it has kept its place"
    obeyed(jobs, ME, {"do": "hold"})
    assert panel(jobs, ME)["held"] and not panel(jobs, YOU)["held"]
    obeyed(jobs, ME, {"do": "let go"})
    assert not panel(jobs, ME)["held"]


@pytest.mark.parametrize("order", [{}, {"do": "fly"}, {"do": "cancel", "jobs": "x"}, {"do": "cancel", "jobs": [1]}])
def test_what_is_no_order_is_refused_in_words(jobs: Jobs, order: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        obeyed(jobs, ME, order)


def test_waits_are_estimated_from_finished_jobs(jobs: Jobs) -> None:
    ask(jobs, ME, "first")
    assert panel(jobs, ME)["jobs"][0]["begins"] is None, "nothing was measured yet"
    done = ask(jobs, ME, "done", count=2)
    jobs.orders.arrange(ME, [done])
    jobs.store.claim_next()
    jobs.store.record(done, Saved(1, 2, "/x.png", 1))
    jobs.store.finish(done, Finished((), 1.0))
    job = jobs.job(done)
    assert job.started_ms is not None
    measured = dataclasses.replace(job, ended_ms=job.started_ms + 20_000)
    pace = pace_of([measured])
    assert pace is not None
    assert pace * work_of(job.request) == pytest.approx(20)
    assert work_of({"size": "2x", "gone": 1}) == 1.0
    begins = [job["begins"] for job in panel(jobs, ME)["jobs"]]
    assert begins == [0.0]


def test_the_routes_answer_the_cookies_owner_only(jobs: Jobs) -> None:
    app = Starlette()
    add_queue_routes(app, jobs)
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
