"""How far off the time that is told before a picture is: the page's own estimate against what the worker then takes.

Pictures of many sizes and lengths are ordered one after the other, in a fresh folder of data, of the miniature that
comes with the program. Of each the seconds told at its order stand beside those from the order to its end. Run
``python benchmarks/estimate.py [pictures] [table]`` in the environment of the program.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fooocus.app import WORKER_ENVIRONMENT, worker_command
from fooocus.config import load_config
from fooocus.jobs.store import JobStore
from fooocus.jobs.supervisor import Jobs
from fooocus.request import Request, Size
from fooocus.ui.estimate import Estimator
from fooocus.ui.stream import ACTIVE

SIZES = (Size(144, 112), Size(112, 144), Size(128, 128), Size(152, 104), Size(288, 224), Size(224, 288))
STEPS = (15, 20, 30, 45)
SEED = 11


def any_request(dice: random.Random) -> Request:
    """Return a request for one picture of the miniature, of any size and length, with guidance or without."""
    return Request(
        prompt=f"a {dice.choice(('red', 'green', 'yellow'))} circle on a blue background",
        base="pocket_base.safetensors",
        refiner="none",
        loras=(),
        size=dice.choice(SIZES),
        steps=dice.choice(STEPS),
        guidance=dice.choice((6.0, 6.0, 1.0)),
        seed=dice.randrange(1000),
    )


def main() -> int:
    """Order the pictures, print the table and write it where asked."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 24
    if count < 4:
        raise SystemExit("At least four pictures, please: the first three are learnt from.")
    dice = random.Random(SEED)
    rows, off = [], []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        config = load_config({"data": str(data), "outputs": str(data / "out")}, {}, data / "none.json")
        command = worker_command(config, Request())
        environment = {**os.environ, **WORKER_ENVIRONMENT}
        with (
            closing(JobStore(data / "jobs.sqlite")) as store,
            closing(Jobs(store, command, environment, data / "worker.log")) as jobs,
        ):
            estimator = Estimator(config, jobs, Request())
            for number in range(1, count + 1):
                request = any_request(dice)
                began = time.monotonic()
                id = jobs.submit(request.to_json(), "bench")
                course = estimator.course(jobs.job(id))
                while jobs.job(id).state in ACTIVE:
                    time.sleep(0.01)
                taken = time.monotonic() - began
                if jobs.job(id).state != "finished":
                    log = (data / "worker.log").read_text(encoding="utf-8", errors="replace")
                    raise SystemExit(f"Picture {number} was not made.\n{log[-4000:]}")
                told = None if course is None else course.seconds
                if told is not None and number > 3:
                    off.append(told / taken - 1)
                asked = f"{request.size.width}x{request.size.height}, {request.steps} steps"
                asked += "" if request.guidance != 1 else ", no guidance"
                said = ("–", "") if told is None else (f"{told:.2f}", f"{100 * (told / taken - 1):+.0f} %")
                rows.append(f"| {number} | {asked} | {said[0]} | {taken:.2f} | {said[1]} |")
                print(rows[-1], flush=True)
    within, sizes = sum(abs(one) <= 0.2 for one in off), sorted(100 * abs(one) for one in off)
    line = f"From the fourth picture on {within} of {len(off)} are within 20 %, "
    line += f"off by {statistics.median(sizes):.0f} % in the median and {sizes[-1]:.0f} % at most."
    table = "\n".join(["| picture | asked | told, s | taken, s | off by |", "|---|---|---|---|---|", *rows, "", line])
    print(line)
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(table + "\n", encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
