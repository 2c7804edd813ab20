"""What may be asked of the bench on the command line; nothing heavy is imported for it."""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path

from fooocus.config import ROOT, Config
from fooocus.errors import RequestError
from fooocus.request import Size, parse_size

TABLES = ROOT / "benchmarks"


@dataclasses.dataclass(frozen=True)
class BenchOptions:
    """``None`` means as the machine suggests. ``files`` are base, refiner and LoRA to measure with."""

    size: Size | None = None
    steps: int | None = None
    runs: int | None = None
    peer: bool = True
    full: bool = False
    files: tuple[Path, Path, Path] | None = None
    out: Path = TABLES


def told_options(config: Config, options: BenchOptions) -> str:
    """Return what was asked for besides the usual, as it is written on a command line; without folders and files."""
    asked: dict[str, object] = {
        "--device": config.device if config.device != "auto" else None,
        "--dtype": config.dtype if config.dtype != "auto" else None,
        "--fast": config.fast if config.fast != "auto" else None,
        "--size": options.size,
        "--steps": options.steps,
        "--runs": options.runs,
    }
    flags = {"--full": options.full, "--no-peer": not options.peer, "--files": bool(options.files)}
    values = [f"{name} {value}" for name, value in asked.items() if value is not None]
    return " ".join([*values, *(name for name, given in flags.items() if given)])


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    group = parser.add_argument_group("what to measure")
    group.add_argument("--size", metavar="WxH", help="width x height of the picture in pixels")
    group.add_argument("--steps", type=int, metavar="N", help="sampling steps; the refiner gets the last three tenths")
    group.add_argument("--runs", type=int, metavar="N", help="pictures that count, after one that warms up")
    group.add_argument(
        "--peer", action=argparse.BooleanOptionalAction, default=True, help="also measure diffusers' own pipelines"
    )
    group.add_argument("--full", action="store_true", help="SDXL's true size on a processor too: 256x256, 2 steps")
    group.add_argument(
        "--files", nargs=3, metavar=("BASE", "REFINER", "LORA"), help="measure with these instead of random weights"
    )
    group.add_argument("--json", action="store_true", help="all measurements as JSON on standard output")
    group.add_argument("--out", metavar="FOLDER", default=str(TABLES), help="where table and JSON are written")


def read_options(parsed: argparse.Namespace) -> BenchOptions:
    """Read what was given. Raises :class:`RequestError` naming the option."""
    for name in ("steps", "runs"):
        if getattr(parsed, name) is not None and getattr(parsed, name) < 1:
            raise RequestError(name, f"--{name} is {getattr(parsed, name)}.", "Give 1 or more.")
    files = tuple(Path(os.path.abspath(name)) for name in parsed.files or ())
    for file in files:
        if not file.is_file():
            raise RequestError("files", f"There is no file {file}.", "Give base, refiner and LoRA by their paths.")
    return BenchOptions(
        size=parse_size(parsed.size) if parsed.size else None,
        steps=parsed.steps,
        runs=parsed.runs,
        peer=parsed.peer,
        full=parsed.full,
        files=(files[0], files[1], files[2]) if files else None,
        out=Path(os.path.abspath(parsed.out)),
    )
