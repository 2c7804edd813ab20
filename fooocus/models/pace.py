"""How long a picture takes here: learnt from the pictures that were made, told for the next one.

Nothing is guessed. Of every finished picture the seconds of its steps, of decoding and of the rest are kept, with the
operations they stood for. The next picture's time follows from them: a step takes a fixed part, for starting its
kernels, and a part that grows with its operations; what was measured lately and at a like size counts most. A picture
for which the models had to be loaded first tells what loading takes.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import sqlite3
import statistics
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from fooocus.models.work import PictureWork

_KEPT = 200  # pictures; older ones tell of a computer that may have changed since
_USED = 40
_FORGET = 0.9  # weight of a picture against that of the next newer one
_LIKENESS = 1.5  # how fast a measurement at another size loses weight: exp(-1.5 |log(x / x')|)
_SPREAD = 1.2  # sizes must differ by this factor before they tell a fixed part from a growing one
_TABLE = """CREATE TABLE IF NOT EXISTS pictures (
    at_ms INTEGER, device TEXT, session TEXT, models TEXT, warm INTEGER,
    base_steps REAL, refiner_steps REAL, base_operations REAL, refiner_operations REAL, decode_operations REAL,
    base_seconds REAL, refiner_seconds REAL, decode_seconds REAL, rest_seconds REAL, whole_seconds REAL,
    at_once INTEGER)"""
_OLDER = "ALTER TABLE pictures ADD COLUMN at_once INTEGER DEFAULT 1"
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Pace:
    """What one picture took. ``base_seconds`` and ``refiner_seconds`` are of one step.

    ``session`` names the worker's life and ``models`` the files, so that it is known whether they are loaded; ``warm``
    says that they were for this picture. Of ``at_once`` pictures that shared their steps, this one took its share.
    """

    device: str
    session: str
    models: str
    warm: bool
    work: PictureWork
    base_seconds: float
    refiner_seconds: float
    decode_seconds: float
    rest_seconds: float
    whole_seconds: float
    at_once: int = 1


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds of one picture by part, of loading before the first one, and from how many pictures they were learnt.

    ``base_seconds`` and ``refiner_seconds`` are of all their steps, ``rest_seconds`` of what is neither a step nor
    decoding: reading the prompt, mostly.
    """

    base_seconds: float
    refiner_seconds: float
    decode_seconds: float
    rest_seconds: float
    loading_seconds: float
    pictures: int

    @property
    def picture_seconds(self) -> float:
        """The seconds of one picture, its models at hand."""
        return self.base_seconds + self.refiner_seconds + self.decode_seconds + self.rest_seconds

    def seconds(self, count: int) -> float:
        """Return the seconds of ``count`` pictures from now."""
        return self.loading_seconds + count * self.picture_seconds


class PaceMemory:
    """What the worker's pictures took, in a small file. It may be lost: then a few pictures are told no time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, pace: Pace) -> None:
        """Remember a picture."""
        row = [time.time_ns() // 1_000_000, pace.device, pace.session, pace.models, pace.warm]
        row += dataclasses.astuple(pace.work)
        row += [pace.base_seconds, pace.refiner_seconds, pace.decode_seconds, pace.rest_seconds, pace.whole_seconds]
        row += [pace.at_once]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._path, timeout=5)) as db, db:
                db.execute(_TABLE)
                if "at_once" not in {column[1] for column in db.execute("PRAGMA table_info(pictures)")}:
                    db.execute(_OLDER)
                db.execute(f"INSERT INTO pictures VALUES ({','.join('?' * len(row))})", row)
                db.execute(
                    "DELETE FROM pictures WHERE rowid <= (SELECT MAX(rowid) FROM pictures) - ?",
                    (_KEPT,),
                )
        except (sqlite3.Error, OSError) as error:
            _log.warning("the time of a picture cannot be remembered: %s", error)

    @property
    def stamp(self) -> tuple[int, int]:
        """What changes when a picture was added."""
        try:
            status = self._path.stat()
        except OSError:
            return 0, 0
        return status.st_mtime_ns, status.st_size

    def newest(self) -> tuple[Pace, ...]:
        """Return the pictures of the device that made the newest one, newest first."""
        try:
            if not self._path.is_file():
                return ()
            with closing(sqlite3.connect(self._path, timeout=5)) as db:
                rows = db.execute("SELECT * FROM pictures ORDER BY rowid DESC LIMIT ?", (_KEPT,)).fetchall()
            found = [
                Pace(device, session, models, bool(warm), PictureWork(*numbers[:5]), *numbers[5:])
                for _, device, session, models, warm, *numbers in rows
            ]
        except (sqlite3.Error, OSError, TypeError, ValueError) as error:
            _log.warning("the times of earlier pictures cannot be read: %s", error)
            return ()
        return tuple(pace for pace in found if pace.device == found[0].device)[:_USED]


def estimate(
    work: PictureWork, models: str, session: str, learnt: Sequence[Pace], *, together: bool = False
) -> Estimate | None:
    """Return how long a picture of ``work`` will take; None while nothing is known. ``learnt`` is newest first.

    Where it may share its steps with others (``together``), those count that did, else those that did not, as long as
    there are any.

    ``models`` are the files it wants and ``session`` the worker's present life: where these files did not make the
    newest picture of this life, what loading took in the past is added.
    """
    if not learnt:
        return None
    at_hand = learnt[0].session == session and learnt[0].models == models
    loading = 0.0 if at_hand else _loading_seconds(models, learnt)
    alike = [pace for pace in learnt if (pace.at_once > 1) is together] or learnt
    return Estimate(*_parts(work, alike), loading, len(alike))


def _parts(work: PictureWork, learnt: Sequence[Pace]) -> tuple[float, float, float, float]:
    """Return the seconds of one picture: the base's steps, the refiner's, decoding, the rest."""
    base = [_Sample(p.work.base_operations, p.base_seconds, age) for age, p in enumerate(learnt) if p.work.base_steps]
    refiner = [
        _Sample(p.work.refiner_operations, p.refiner_seconds, age)
        for age, p in enumerate(learnt)
        if p.work.refiner_steps
    ]
    # The first decoding after loading also loads the VAE; it counts only while there is no other.
    settled = [(age, p) for age, p in enumerate(learnt) if p.warm] or list(enumerate(learnt))
    decode = [_Sample(p.work.decode_operations, p.decode_seconds, age) for age, p in settled]
    rest = statistics.median(p.rest_seconds for _, p in settled[:5])
    # A network that was never seen is taken to be as fast as the other.
    refining = work.refiner_steps * fit(work.refiner_operations, refiner or base) if work.refiner_steps else 0.0
    sampling = work.base_steps * fit(work.base_operations, base or refiner)
    return sampling, refining, fit(work.decode_operations, decode), rest


def _loading_seconds(models: str, learnt: Sequence[Pace]) -> float:
    """Return the median of what pictures took beyond their work when the same files had to be loaded; else of any."""
    cold = [pace for pace in learnt if not pace.warm]
    same = [pace for pace in cold if pace.models == models] or cold
    extra = [max(0.0, pace.whole_seconds - sum(_parts(pace.work, learnt))) for pace in same[:3]]
    return statistics.median(extra) if extra else 0.0


@dataclasses.dataclass(frozen=True)
class _Sample:
    operations: float
    seconds: float
    age: int


def fit(operations: float, samples: Sequence[_Sample]) -> float:
    """Return the seconds that ``operations`` take by the line seconds = fixed + rate * operations through ``samples``.

    The line is the one of least relative errors, weighted by age and likeness, then raised until the samples lie above
    it as much as below: by itself that line is too low, because a slow sample counts less than a quick one. Its fixed
    part is never negative. Where all samples are of about one size, it goes through the origin.
    """
    known = [s for s in samples if s.operations > 0 and s.seconds > 0]
    if not known or operations <= 0:
        return 0.0
    weights = [_FORGET**s.age * math.exp(-_LIKENESS * abs(math.log(operations / s.operations))) + 1e-12 for s in known]
    total = sum(weights)
    # Through the origin: the weighted mean of rates, in logarithms, so that one slow picture does not rule.
    logs = sum(w * math.log(s.seconds / s.operations) for w, s in zip(weights, known, strict=True)) / total
    straight = operations * math.exp(logs)
    if max(s.operations for s in known) < _SPREAD * min(s.operations for s in known):
        return straight
    # Minimise the sum of w (fixed * u + rate * v - 1)^2 with u = 1 / seconds, v = operations / seconds.
    uu = uv = vv = u1 = v1 = 0.0
    for w, s in zip(weights, known, strict=True):
        u, v = 1 / s.seconds, s.operations / s.seconds
        uu, uv, vv, u1, v1 = uu + w * u * u, uv + w * u * v, vv + w * v * v, u1 + w * u, v1 + w * v
    determinant = uu * vv - uv * uv
    if determinant <= 1e-12 * uu * vv:
        return straight
    fixed, rate = (u1 * vv - v1 * uv) / determinant, (v1 * uu - u1 * uv) / determinant
    if fixed < 0 or rate <= 0:
        return straight
    above = sum(w * math.log(s.seconds / (fixed + rate * s.operations)) for w, s in zip(weights, known, strict=True))
    return (fixed + rate * operations) * math.exp(above / total)
