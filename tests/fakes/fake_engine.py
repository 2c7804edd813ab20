"""A worker without torch: steps, previews and real small pictures at any speed, and faults on demand.

Run as ``python tests/fakes/fake_engine.py OUTPUT_FOLDER``. It reads the fields of a real request that matter to it
(``prompt``, ``count``, ``seed``, ``size``, ``steps``) and ignores all others. The object ``fake`` in a request sets:

- ``steps`` and ``seconds`` (per step), ``preview`` (true: JPEG previews, by Pillow; default: only without ``fake``)
- ``die_at`` step k: the process kills itself; ``segfault`` / ``exit``: at the first step
- ``raise``: a sentence, raised as a RenderError; ``defect``: raised as a ValueError; ``memory``: a MemoryError
- ``hang``: sleeps at the first step and never looks at its control
- ``print_to_stdout``: prints from Python and from a child process, as libraries do

Command-line options are for faults at the start: ``--die`` (exit code 3 after a line on standard error),
``--slow SECONDS``, ``--hang``, ``--until FILE`` (no ``--die`` once the file is there), ``--die-warming`` (when there is
something to warm).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fooocus.errors import PauseAsked, RenderError
from fooocus.events import LeftOut, Notice, Paused, Saved, Stage, Step
from fooocus.jobs.worker import Control, Emit, WorkItem, claim_pipes, serve


class _Left(Exception):
    """The picture was left after ``step`` of its steps."""

    def __init__(self, step: int, steps: int, preview: bytes | None) -> None:
        super().__init__()
        self.step, self.steps, self.preview = step, steps, preview


class FakeEngine:
    """Has the real engine's ``prepare`` and ``run``; writes pictures below ``folder``."""

    def __init__(self, folder: Path, *, slow_seconds: float = 0.0, die_warming: bool = False) -> None:
        self.folder = folder
        self.slow_seconds = slow_seconds
        self.die_warming = die_warming

    def prepare(self, settings: dict[str, Any]) -> None:
        """Stand for the slow imports."""
        time.sleep(self.slow_seconds)
        if self.die_warming and "request" in settings:
            print("the fake engine dies of warming", file=sys.stderr, flush=True)
            os._exit(3)

    def run(self, item: WorkItem, emit: Emit, control: Control) -> None:
        """Make ``count`` pictures, leaving out those that a former attempt has made."""
        fake = item.request.get("fake", {})
        count = int(item.request.get("count") or 1)
        seed = item.request.get("seed")
        seed = item.created_ms % 2**31 if seed is None else int(seed)  # the same again in a second attempt
        rest = item.paused or Paused()
        known = {saved.picture for saved in item.saved} | set(rest.skipped)
        skipped = list(rest.skipped)
        if fake.get("print_to_stdout"):
            print('{"id": "x", "event": "a library prints"}', flush=True)
            subprocess.run([sys.executable, "-c", "print('a child prints')"], check=True)
        emit(Notice(f"fake engine, attempt {item.attempt}"))
        for picture in range(1, count + 1):
            if picture in known:
                continue
            path = self._path(item, picture, seed + picture - 1)
            control.skipped()
            begin = rest.step if picture == rest.picture else 0
            try:
                made = path.exists() or self._steps(item, picture, count, emit, control, begin)
            except _Left as left:
                return emit(Paused(picture, count, left.step, left.steps, left.preview, tuple(skipped)))
            if not made:
                skipped.append(picture)
                emit(LeftOut(picture, count))
            else:
                emit(Stage("saving", picture, count))
                self._save(item, path, seed + picture - 1)
                emit(Saved(picture, count, str(path), seed + picture - 1))

    def _steps(self, item: WorkItem, picture: int, pictures: int, emit: Emit, control: Control, begin: int) -> bool:
        """Walk the steps from ``begin`` on; return false when the picture is skipped. Raises :class:`_Left`."""
        fake = item.request.get("fake", {})
        steps = int(fake.get("steps") or item.request.get("steps") or 10)
        wants_preview = fake.get("preview", "fake" not in item.request)
        emit(Stage("sampling", picture, pictures))
        preview = None
        for step in range(begin + 1, steps + 1):
            try:
                control.check()
            except PauseAsked:
                raise _Left(step - 1, steps, preview) from None
            if control.skipping():
                return False
            _misbehave(fake, step)
            time.sleep(float(fake.get("seconds", 0.02)))
            preview = _jpeg(step / steps) if wants_preview else None
            emit(Step(picture, pictures, step, steps, preview))
        try:
            control.check()
        except PauseAsked:
            raise _Left(steps, steps, preview) from None
        return True

    def _path(self, item: WorkItem, picture: int, seed: int) -> Path:
        begun = time.localtime(item.created_ms / 1000)
        name = f"{time.strftime('%H-%M-%S', begun)}-{item.created_ms % 1000:03d}_{picture:04d}_{seed}.png"
        return self.folder / time.strftime("%Y-%m-%d", begun) / name

    def _save(self, item: WorkItem, path: Path, seed: int) -> None:
        """Write the picture atomically and never over an existing one; keep a list of what was made."""
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        with part.open("wb") as file:
            file.write(_png(*_size(item.request), seed, json.dumps(item.request)))
            file.flush()
            os.fsync(file.fileno())
        try:
            part.rename(path) if os.name == "nt" else os.link(part, path)
        except FileExistsError:
            return  # the worker of a killed page was faster by a hair
        finally:
            part.unlink(missing_ok=True)
        with (self.folder / "made.log").open("a", encoding="utf-8") as file:
            file.write(f"{path.name}\n")


def _misbehave(fake: dict[str, Any], step: int) -> None:
    """Do the fault that the request asks for at this step."""
    if fake.get("die_at") == step:
        os.kill(os.getpid(), 9)
    if step > 1:
        return
    if fake.get("segfault"):
        ctypes.string_at(0)
    if "exit" in fake:
        os._exit(int(fake["exit"]))
    if "raise" in fake:
        raise RenderError(str(fake["raise"]), "Try again.")
    if "defect" in fake:
        raise ValueError(fake["defect"])
    if fake.get("memory"):
        raise MemoryError
    while fake.get("hang"):
        time.sleep(1)


def _size(request: dict[str, Any]) -> tuple[int, int]:
    """Read ``"64x48"`` or ``[64, 48]`` as (width, height)."""
    size = request.get("size") or "64x64"
    width, height = size.lower().split("x") if isinstance(size, str) else size
    return int(width), int(height)


def _png(width: int, height: int, seed: int, text: str) -> bytes:
    """Make an RGB PNG of slanted stripes in a colour that the seed decides; ``text`` goes into its metadata."""
    colour = zlib.crc32(str(seed).encode()).to_bytes(4, "big")[:3]
    line = b"".join(colour if x // 16 % 2 else bytes(255 - value for value in colour) for x in range(width + height))
    rows = b"".join(b"\0" + line[3 * y : 3 * (y + width)] for y in range(height))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)),
            chunk(b"iTXt", b"request\0\0\0\0\0" + text.encode()),
            chunk(b"iTXt", b"parameters\0\0\0\0\0" + _settings(text, seed).encode()),
            chunk(b"IDAT", zlib.compress(rows, 1)),
            chunk(b"IEND", b""),
        )
    )


def _settings(request: str, seed: int) -> str:
    """Return the request that makes this one picture, as the page can read it back."""
    return json.dumps({name: value for name, value in json.loads(request).items() if name != "fake"} | {"seed": seed})


def _jpeg(done: float) -> bytes:
    """Make a small JPEG that grows brighter as the work goes on."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (int(255 * done),) * 3).save(buffer, "JPEG")
    return buffer.getvalue()


def main() -> None:
    """Be a worker process."""
    stdin, stdout = claim_pipes()
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--slow", type=float, default=0.0)
    parser.add_argument("--die", action="store_true")
    parser.add_argument("--hang", action="store_true")
    parser.add_argument("--until", type=Path)
    parser.add_argument("--die-warming", action="store_true")
    options = parser.parse_args()
    if options.die and not (options.until and options.until.exists()):
        print("the fake engine does not start", file=sys.stderr)
        sys.exit(3)
    while options.hang:
        time.sleep(1)
    engine = FakeEngine(options.folder, slow_seconds=options.slow, die_warming=options.die_warming)
    serve(engine.run, stdin, stdout, prepare=engine.prepare)


if __name__ == "__main__":
    main()
