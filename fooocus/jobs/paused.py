"""Where the unfinished pictures of paused jobs lie, and when they may go. What is in them, the engine knows.

A file stays until its job has ended: should the program die after the job was resumed, it goes on from the pause again.
That of a cancelled job stays a little longer, because a person may want the job back.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from fooocus.errors import StorageError
from fooocus.jobs.store import SECOND_THOUGHTS_MS, Job, JobStore

FOLDER = "paused"


def paused_file(data: Path, id: str) -> Path:
    """Return where the unfinished picture of a job lies, if it was paused in mid-picture."""
    return data / FOLDER / f"{id}.safetensors"


def sweep(store: JobStore) -> None:
    """Remove the files of jobs that have ended. What cannot be removed is left for the next time."""
    folder = store.path.parent / FOLDER
    try:
        files = list(folder.iterdir()) if folder.is_dir() else []
        for file in files:
            if not _may_go_on(store.get(file.name.partition(".")[0])):
                file.unlink(missing_ok=True)
    except (OSError, StorageError) as error:
        logging.getLogger("fooocus.jobs").warning("%s is not swept: %s", folder, error)


def _may_go_on(job: Job | None) -> bool:
    if job is None:
        return False
    if job.state == "cancelled":
        return (job.ended_ms or 0) > time.time_ns() // 1_000_000 - SECOND_THOUGHTS_MS
    return job.terminal is None
