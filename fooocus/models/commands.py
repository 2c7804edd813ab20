"""The commands `doctor` and `fetch`, without their printing: what they do, and the lines and values they say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from fooocus.models.catalogue import choose
from fooocus.models.fetch import Progress
from fooocus.models.first_run import FirstRun
from fooocus.models.report import lines
from fooocus.models.troubles import DownloadError

SEARCH_SECONDS = 20.0  # for copies on this disk; hashing one of 7 GB may take longer, and then the next time finds it


def doctor(run: FirstRun, measured_seconds: float | None = None) -> Iterator[str]:
    """Yield what the page says about this computer and its models, line by line. No connection is opened."""
    run.begin()
    run.wait(SEARCH_SECONDS)
    yield from lines(run.survey(measured_seconds))
    if run.searching:
        yield "The search for copies on this disk has not ended; start the page to let it end."
    at_home = {file.path for file in run.shelves.found if not file.misplaced}  # one folder may hold several kinds
    for file in run.shelves.found:
        if file.content.problem:
            yield f"Not usable: {file.path}: {file.content.problem}"
        elif file.misplaced and file.path not in at_home:
            yield f"In another folder than usual: {file.path} is of kind {file.content.kind}."


def fetch(run: FirstRun, names: Sequence[str] | None, tell: Callable[[Progress], None]) -> Progress:
    """Fetch the named files, or all that are missing, saying twice a second how far it is; return how it ended.

    A copy on this disk is linked instead of fetched. Raises :class:`~fooocus.errors.StorageError` before the first byte
    if there is too little room, :class:`~fooocus.errors.MissingModel` for an unknown name, and the first file's error
    if any file failed.
    """
    if names is not None:
        choose(names, {entry.name: entry for entry in run.wanted})
    run.begin()
    run.wait()
    for file in run.survey().files:
        if file.state == "elsewhere" and (names is None or file.entry.name in names):
            run.use(file.entry.name)
    left = [file.entry.name for file in run.survey().files if file.state != "here"]
    run.fetch([name for name in left if names is None or name in names])
    progress = run.fetcher.progress()
    for progress in run.fetcher.watch():
        tell(progress)
    failed = next((file for file in progress.files if file.phase == "failed"), None)
    if failed is not None:
        raise DownloadError(failed.sentence, failed.remedy)
    return progress
