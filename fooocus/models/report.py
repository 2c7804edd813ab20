"""The state of this installation in words: what the page shows at the first start is what `doctor` prints.

:func:`survey` finds out, :func:`lines` says it; both halves are free of prints and of the network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from fooocus.models.catalogue import Entry
from fooocus.models.computer import Card, Computer, look
from fooocus.models.elsewhere import Copy
from fooocus.models.fetch import Progress
from fooocus.models.hub import HUB, Source
from fooocus.models.partfile import fetched_bytes, is_there
from fooocus.models.verdict import Verdict, judge
from fooocus.models.words import amount, duration, rate

State = Literal["here", "unusable", "begun", "elsewhere", "missing"]
_TO_FETCH: tuple[State, ...] = ("missing", "begun", "unusable")


@dataclasses.dataclass(frozen=True)
class WantedFile:
    """One wanted file. ``fetched_bytes`` of it are there; ``copy`` is a right copy that another program has.

    ``sentence`` says what to do about a file at ``target`` that is "unusable".
    """

    entry: Entry
    state: State
    fetched_bytes: int
    target: Path
    copy: Path | None = None
    sentence: str = ""


@dataclasses.dataclass(frozen=True)
class Survey:
    """All that the first page says."""

    computer: Computer
    verdict: Verdict
    files: tuple[WantedFile, ...]
    endpoint: str = HUB

    @property
    def to_fetch(self) -> tuple[Entry, ...]:
        """The entries that are neither here nor on this disk."""
        return tuple(file.entry for file in self.files if file.state in _TO_FETCH)

    @property
    def bytes_to_fetch(self) -> int:
        """What is still to come; files of unknown size count as nothing."""
        unfinished = [file for file in self.files if file.state in _TO_FETCH]
        return sum((file.entry.size_bytes or 0) - file.fetched_bytes for file in unfinished)

    def to_json(self) -> dict[str, Any]:
        """Return the values as a JSON object."""
        computer = dataclasses.asdict(self.computer)
        computer |= {"models": str(self.computer.models), "features": sorted(self.computer.features)}
        files = [
            {
                "name": file.entry.name,
                "state": file.state,
                "fetched_bytes": file.fetched_bytes,
                "size_bytes": file.entry.size_bytes,
                "target": str(file.target),
                "copy": str(file.copy) if file.copy else None,
                "sentence": file.sentence,
            }
            for file in self.files
        ]
        return {
            "computer": computer,
            "verdict": self.verdict.to_json(),
            "files": files,
            "bytes_to_fetch": self.bytes_to_fetch,
        }


def survey(
    models: Path,
    wanted: Sequence[Entry],
    *,
    copies: Sequence[Copy] = (),
    placed: Mapping[str, Path] | None = None,
    problems: Mapping[Path, str] | None = None,
    measured_seconds: float | None = None,
    endpoint: str = HUB,
    computer: Computer | None = None,
) -> Survey:
    """Find out the state of things. No connection is opened and no file is hashed, so it takes well under a second.

    ``copies`` are those found so far in other programs' folders, ``placed`` the files used in place, by name; a file
    that somebody put into the folder by hand counts as here, unless ``problems`` says by its path why it is no model.
    """
    here = {name for name, path in (placed or {}).items() if is_there(path)}
    at = {copy.entry.name: copy.path for copy in copies}
    files = []
    for entry in wanted:
        target = entry.target(models)
        there, begun = is_there(target), fetched_bytes(target)
        state: State = "missing"
        sentence = ""
        if there and entry.name not in here and (problem := (problems or {}).get(target)):
            state, begun = "unusable", 0
            sentence = f"{target} cannot be used: {problem} Move it away, then fetch it."
        elif there or entry.name in here:
            state, begun = "here", entry.size_bytes or 0
        elif entry.name in at:
            state = "elsewhere"
        elif begun:
            state = "begun"
        files.append(WantedFile(entry, state, begun, target, at.get(entry.name), sentence))
    computer = computer or look(models)
    return Survey(computer, judge(computer, measured_seconds), tuple(files), endpoint)


def lines(found: Survey) -> list[str]:
    """Say a survey, one line per thing."""
    computer, verdict = found.computer, found.verdict
    said = [
        f"Computer: {computer.system}, {computer.processor}, {computer.cores} cores, "
        f"{amount(computer.memory_bytes)} main memory",
        *(f"Graphics: {_card(card)}" for card in computer.cards),
        *([] if computer.cards else ["Graphics: no card that can be used was found"]),
        f"Disk: {amount(computer.disk_free_bytes)} free in {computer.models}",
        f"Verdict: {verdict.sentence}",
        *([f"What is kept where: {verdict.plan}"] if verdict.plan else []),
        f"Where the time comes from: {verdict.basis}.",
        *(f"Warning: {warning}" for warning in verdict.warnings),
        *(f"{file.entry.name}: {_file(file)}" for file in found.files),
    ]
    if found.to_fetch:
        total = found.bytes_to_fetch
        said.append(f"To fetch: {amount(total)} ({fetch_times(total)}). It can be paused, and goes on after any break.")
        if computer.disk_free_bytes < total:
            said.append(f"Warning: the disk has {amount(computer.disk_free_bytes)} free, {amount(total)} are needed.")
        said += [f"By hand: {_put(file, found.endpoint)}" for file in found.files if file.entry in found.to_fetch]
    return said


def progress_line(progress: Progress) -> str:
    """Say in one line how far the download is: "3.1 GB of 13.1 GB, 11 MB/s, 15 min left"."""
    said = f"{amount(progress.done_bytes)} of {amount(progress.size_bytes)}"
    if progress.rate:
        said += f", {rate(progress.rate)}"
    if progress.seconds_left is not None and not progress.ended:
        said += f", {duration(progress.seconds_left)} left"
    return said


def _card(card: Card) -> str:
    return f"{card.name}, {amount(card.memory_bytes) if card.memory_bytes else 'memory unknown'}"


def _file(file: WantedFile) -> str:
    size = amount(file.entry.size_bytes) if file.entry.size_bytes else "size told by the hub"
    match file.state:
        case "here":
            return f"here ({file.entry.purpose})"
        case "unusable":
            return file.sentence
        case "elsewhere":
            return f"found at {file.copy}; it can be used without fetching it ({file.entry.purpose})"
        case "begun":
            return f"{amount(file.fetched_bytes)} of {size} fetched ({file.entry.purpose})"
        case _:
            return f"missing, {size} ({file.entry.purpose}; licence {file.entry.licence})"


def fetch_times(size_bytes: int) -> str:
    """Say how long it takes on two usual lines, because this one's speed is not known before it has begun."""
    slow, fast = 50e6 / 8, 250e6 / 8
    return f"{duration(size_bytes / fast)} at 250 Mbit/s, {duration(size_bytes / slow)} at 50 Mbit/s"


def _put(file: WantedFile, endpoint: str) -> str:
    return f"open {Source(endpoint).address(file.entry)} and put the file into {file.target.parent}"
