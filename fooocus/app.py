"""Composition root: the only place that constructs long-lived objects and joins the halves of the program.

Two halves never import each other: the page process (jobs, page) and the worker process (engine). They meet here, as a
command line that starts this module again as the worker.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from fooocus.awake import awake
from fooocus.config import ROOT, Config
from fooocus.events import Event
from fooocus.request import Recipe, Request

if TYPE_CHECKING:
    from fooocus.bench.options import BenchOptions
    from fooocus.jobs.worker import Control, Emit, Run, WorkItem
    from fooocus.models.first_run import FirstRun
    from fooocus.render.engine import Engine

WORKER_ENVIRONMENT = {
    # Weights are local files; a library that asks its hub would wait for an answer that is not needed.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTORCH_ENABLE_MPS_FALLBACK": "1",
    # Threads that wait for each other sleep instead of spinning: on a processor that other programs use as well,
    # spinning made a miniature picture take 54 to 69 s instead of 9 to 11 s (2 cores, load 5).
    "OMP_WAIT_POLICY": "PASSIVE",
}
PAGE_ENVIRONMENT = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def run_page(config: Config, defaults: Request, ready: Callable[[str], None]) -> int:
    """Serve the page until it is interrupted; return how many jobs go on at the next start.

    ``defaults`` are what the page's controls begin with.
    """
    own = dict(os.environ)  # what the person has set, such as a hub, a token or a wish to stay offline
    os.environ.update(PAGE_ENVIRONMENT)
    from fooocus.jobs.lock import FolderLock
    from fooocus.jobs.store import JobStore
    from fooocus.jobs.supervisor import Jobs

    environment = {**os.environ, **WORKER_ENVIRONMENT, "PYTHONUTF8": "1"}
    with ExitStack() as stack:
        stack.enter_context(ended_by_signals())
        lock = FolderLock(config.data)
        stack.callback(lock.release)
        store = stack.enter_context(closing(JobStore(config.data / "jobs.sqlite")))
        models = stack.enter_context(closing(first_run(config, defaults, own)))
        spare = stand_in(config, defaults)
        begin = {"request": (defaults if spare is None or models.complete() else spare).to_json()}
        worker = Jobs(store, worker_command(config, defaults), environment, config.data / "worker.log", prepare=begin)
        jobs = stack.enter_context(closing(worker))
        models.begin()
        # The worker is loading its libraries by now; the page's own import, seconds where it has not been compiled yet,
        # comes after it.
        from fooocus.ui.server import serve

        def told(address: str) -> None:
            lock.tell(address)
            ready(address)

        serve(config, jobs, defaults, ready=told, first_run=models, spare=spare)
        return len(jobs.jobs(states=("waiting", "running")))


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let a window that is closed, a logout or ``kill`` raise ``KeyboardInterrupt``, as Ctrl+C does: once.

    By themselves they end the process on the spot, and the running job would not be put back. While that is done, more
    of them are not heard: a closed window may be told of twice. A signal that is ignored already, as ``nohup`` has it,
    stays so.
    """
    names = ("SIGTERM", "SIGHUP", "SIGBREAK")
    known = [signal.Signals[name] for name in names if name in signal.Signals.__members__]
    wanted = [number for number in known if signal.getsignal(number) == signal.SIG_DFL]

    def end(number: int, frame: FrameType | None) -> None:
        for other in wanted:
            signal.signal(other, signal.SIG_IGN)
        raise KeyboardInterrupt

    def pass_on(number: int, frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGTERM)  # the web server listens for that one, but not for SIGHUP

    if threading.current_thread() is not threading.main_thread():  # only that one may
        wanted.clear()
    for number in wanted:
        signal.signal(number, pass_on if number.name == "SIGHUP" else end)
    try:
        yield
    finally:
        for number in wanted:
            signal.signal(number, signal.SIG_DFL)


def stand_in(config: Config, defaults: Request) -> Request | None:
    """Return what the page begins with while the models of ``defaults`` are missing, if its own files are here.

    It is a preset's model at that model's size; the rest is as in ``defaults``.
    """
    from fooocus.prompt.presets import STAND_IN, layered, load_presets

    preset = load_presets(config.styles_folder / "presets").by_name.get(STAND_IN)
    if preset is None:
        return None
    for kind, names in preset.wants.items():
        if not all(any((folder / name).is_file() for folder in config.folders(kind)) for name in names):
            return None
    kept = ("styles", "performance")
    return layered(defaults.to_json(), {name: value for name, value in preset.values.items() if name not in kept})


def first_run(config: Config, defaults: Request, environment: Mapping[str, str]) -> FirstRun:
    """Make the object that finds, fetches and reports the models which ``defaults`` want. Nothing happens yet."""
    from fooocus.models.catalogue import FOLDERS, load_catalogue, wanted_by
    from fooocus.models.fetch import HubSettings
    from fooocus.models.first_run import FirstRun, Places

    places = Places(
        root=ROOT,
        models=config.models,
        data=config.data,
        folders={kind: config.folders(folder) for kind, folder in FOLDERS.items()},
        others=config.extra_folders,
    )
    mirrors = tuple(mirror.strip() for mirror in config.mirrors.split(",") if mirror.strip())
    settings = HubSettings(environment, mirrors, config.rate_limit * 1e6 or None)
    return FirstRun(places, wanted_by(defaults, load_catalogue()), settings)


def generate(config: Config, request: Request, emit: Callable[[Event], None], latents_file: Path | None = None) -> None:
    """Run one job in this process and say its events to ``emit``, the last of them a terminal one."""
    import time

    os.environ.update(WORKER_ENVIRONMENT)
    from fooocus.jobs.worker import Control, WorkItem, perform

    control = Control()
    before = signal.signal(signal.SIGINT, lambda number, frame: control.stop())
    item = WorkItem(id="generate", request=request.to_json(), created_ms=time.time_ns() // 1_000_000)

    def run(job: WorkItem, emit: Callable[[Event], None], control: Control) -> None:
        from fooocus.render.engine import Engine

        Engine(config, latents_file=latents_file, previews=False).run(job, emit, control)

    try:
        with awake():
            perform(run, item, emit, control)
    finally:
        signal.signal(signal.SIGINT, before)


def bench(config: Config, options: BenchOptions, tell: Callable[[str], object]) -> dict[str, Any]:
    """Measure in this process, whose environment becomes the worker's; return everything as a JSON object."""
    os.environ.update(WORKER_ENVIRONMENT)
    from fooocus.bench.run import bench as measure

    with awake():
        return measure(config, options, tell)


def worker_command(config: Config, defaults: Request) -> list[str]:
    """Return the command line that starts a worker with these settings.

    Of model files outside the model folders, pages may name only those that the page was started with.
    """
    values = {name: str(value) if isinstance(value, Path) else value for name, value in vars(config).items()}
    values["password"] = ""  # the worker has no use for it, and command lines can be seen by others
    named = [defaults.base, defaults.refiner, defaults.vae, *(use.name for use in defaults.loras or ())]
    outside = [name for name in named if name and os.path.isabs(name)]
    return [sys.executable, "-m", "fooocus.app", json.dumps({"config": values, "outside": outside})]


def worker_main(arguments: list[str]) -> None:
    """Be the worker process: read jobs from standard input until the page is gone."""
    from fooocus.jobs.worker import claim_pipes, serve

    stdin, stdout = claim_pipes()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    told = json.loads(arguments[0])
    values: dict[str, Any] = told["config"]
    for field in dataclasses.fields(Config):
        if field.type == "Path":
            values[field.name] = Path(values[field.name])
    config = Config(**values)
    from fooocus.render.engine import Engine

    engine = Engine(config, outside=told["outside"], waits=True)
    serve(_measured(engine, config, told["outside"]), stdin, stdout, prepare=engine.warm)


def _measured(engine: Engine, config: Config, outside: list[str]) -> Run:
    """Return the engine's ``run`` with a watch beside it that remembers how long every picture took."""
    from fooocus.models.elsewhere import placed
    from fooocus.models.measuring import Counter, Measuring
    from fooocus.models.pace import PaceMemory
    from fooocus.prompt.plan import plan
    from fooocus.prompt.stock import load_stock

    def recipes(request: Mapping[str, Any]) -> tuple[Recipe, ...]:
        stock = load_stock(config.styles_folder)
        return plan(Request.from_json(request), stock.styles, stock.lists)

    counter = Counter(config.folders("checkpoints"), lambda: placed(config.data), outside)
    measuring = Measuring(PaceMemory(config.data / "pace.sqlite"), counter, recipes, engine.computing_on)

    def run(job: WorkItem, emit: Emit, control: Control) -> None:
        heard = measuring.job(job.request)

        def tell(event: Event) -> None:
            heard(event)
            emit(event)

        engine.run(job, tell, control)

    return run


if __name__ == "__main__":
    worker_main(sys.argv[1:])
