"""Several people at once, without browsers: a small form of ``benchmarks/sessions.py``, so that it stays right."""

from __future__ import annotations

import asyncio
from pathlib import Path

from benchmarks.sessions import Times, crowd, page

PEOPLE = 5
SLOW_SECONDS = 3.0  # on a busy test machine; the measured table is in benchmarks/sessions.md


def test_a_few_people_are_answered_while_a_job_runs(tmp_path: Path) -> None:
    with page(tmp_path) as (url, _):
        times: Times = asyncio.run(crowd(url, PEOPLE, 2.5, arriving_seconds=0.5))
    assert times.faults == []
    once = ("the page", "the whole page, all its files", "making a job", "the first look at a job")
    assert {kind: len(times.seconds[kind]) for kind in once} == dict.fromkeys(once, PEOPLE)
    again = times.seconds["the page again"]
    assert len(again) >= PEOPLE and sorted(again)[len(again) // 2] < SLOW_SECONDS
