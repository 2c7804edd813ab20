"""Make `.venv`: the pinned packages and the torch that fits this machine, resumable at any moment.

`.venv/launch.json` is the memory. It names the steps that are done: the next start takes up an interrupted one, and a
start that finds everything done reads a few small files. Read `prepare`, then `install`.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from fooocus.install import windows
from fooocus.install.hardware import TORCH_INDEX, Build, answers, torch_folder
from fooocus.install.troubles import SMALLEST_GB, InstallError, Place, explained, python_tag

# Finished steps: python, torch, pin, asked, packages, tests -> what each was finished for. Source: where torch is from.
State = dict[str, str]
ORDINARY = "ordinary index"  # the source of a torch that may be for other hardware
Run = Callable[[list[str]], tuple[int, str]]  # a command -> its exit code and what it wrote to standard error


def say(text: str, to: TextIO | None = None) -> None:
    """Show the person a line at once."""
    print(text, file=to or sys.stdout, flush=True)


# --- what is there -------------------------------------------------------------------------------------------------


def tag_of(place: Place) -> str:
    """Return the tag of `.venv`'s own Python; "" where that is absent, does not start or is no environment."""
    question = (
        "import sys; sys.path.insert(0, sys.argv[1]); from fooocus.install.troubles import python_tag; "
        "print(python_tag() if sys.prefix != sys.base_prefix else '')"
    )
    try:
        answer = subprocess.run(
            [str(place.python), "-c", question, str(Path(__file__).parents[2])], capture_output=True, text=True
        )
    except OSError:
        return ""
    return answer.stdout.strip()


def read_state(place: Place) -> State:
    """Return the steps that are done; none where that is not known, or another kind of Python did them and is gone."""
    try:
        state = json.loads(place.state.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    usable = isinstance(state, dict) and (state.get("python") == python_tag() or starts(place))
    return state if usable else {}


def starts(place: Place) -> bool:
    """Tell whether the Python that `.venv` was made by is where it was, without starting it.

    It is not when it was removed, or lay in this folder and the folder was moved.
    """
    try:
        home = re.search(r"^home *= *(.+)$", (place.venv / "pyvenv.cfg").read_text(encoding="utf-8"), re.MULTILINE)
        return place.python.exists() and home is not None and any(Path(home[1].strip()).glob("python*"))
    except (OSError, ValueError):
        return False


def write_state(place: Place, state: State) -> None:
    """Replace the state in one step, after everything it vouches for has reached the disk."""
    if hasattr(os, "sync") and "packages" in state:
        os.sync()
    part = place.state.with_suffix(".part")
    with open(part, "w", encoding="utf-8") as file:
        json.dump(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, place.state)


def digest(*files: Path) -> str:
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def wanted_state(place: Place, build: Build, *, with_tests: bool) -> State:
    """Return the state in which nothing is left to do; test tools belong to it only when tests are to run."""
    wanted = {"python": python_tag(), "torch": build.name, "pin": torch_pin(place), "asked": build.asked}
    wanted["packages"] = digest(place.packages, place.security)
    return {**wanted, "tests": digest(place.test_tools)} if with_tests else wanted


def torch_pin(place: Place) -> str:
    """Return the version of torch that is to be installed, "" where none is."""
    pin = re.search(r"^torch==(\S+)", place.packages.read_text(encoding="utf-8"), re.MULTILINE)
    return pin[1] if pin else ""


def is_ready(place: Place, wanted: State) -> bool:
    """Tell whether `.venv` has all that is wanted; one made by another fitting Python is as good."""
    state = read_state(place)
    if any(state.get(step) != value for step, value in wanted.items() if step != "python"):
        return False
    return (state.get("python") == wanted["python"] and starts(place)) or tag_of(place) == state.get("python")


def torch_records(place: Place, pin: str) -> list[str]:
    """List the records of an installed torch of version `pin`, whatever hardware it is for."""
    return [path.name for site in place.sites() for path in site.glob(f"torch-{pin}*.dist-info")]


def drop_damaged(place: Place) -> list[str]:
    """Remove the records of packages that lack files, as a kill in mid-copy leaves them; pip then installs them anew.

    Each installed package lists its files and their sizes in RECORD, which pip writes last. Return the names of the
    records.
    """
    dropped = []
    for site in place.sites():
        for leftover in site.glob("~*"):  # what pip renamed to replace it
            shutil.rmtree(leftover, ignore_errors=True)
        for info in list(site.glob("*.dist-info")):
            if not is_whole(site, info):
                shutil.rmtree(info)
                dropped.append(info.name)
    return dropped


def is_whole(site: Path, info: Path) -> bool:
    """Tell whether every file a package recorded is there with its size."""
    try:
        with open(info / "RECORD", encoding="utf-8", newline="") as file:
            sizes = {row[0]: row[2] for row in csv.reader(file) if len(row) == 3}
        return bool(sizes) and all((site / name).stat().st_size == int(size) for name, size in sizes.items() if size)
    except (OSError, ValueError):
        return False


# --- one at a time -------------------------------------------------------------------------------------------------


@contextmanager
def alone(place: Place) -> Iterator[int]:
    """Hold this folder's lock and yield its descriptor; the system frees it whichever way its holders end."""
    place.cache.mkdir(parents=True, exist_ok=True)
    with open(place.lock, "a+", encoding="utf-8") as file:
        told = False
        while not try_lock(file.fileno()):
            if not told:
                say("Another start is preparing this folder; waiting for it to finish ...")
                told = True
            time.sleep(0.2)
        yield file.fileno()


def try_lock(descriptor: int) -> bool:
    """Take the lock and return True, or return False where another process has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        say("This disk knows no locks: start only one at a time until the installation is done.")
    return True


# --- installing ----------------------------------------------------------------------------------------------------


def prepare(
    place: Place, build: Build, *, with_tests: bool = False, anew: bool = False, run: Run | None = None
) -> None:
    """Bring `.venv` to the wanted state, doing only what is missing; raise InstallError where that cannot be done.

    With `anew`, where the build was asked for just now, a torch that could only be had from the ordinary index is tried
    to be had from PyTorch's own again.
    """
    try:
        wanted = wanted_state(place, build, with_tests=with_tests)
        state = read_state(place)
        if anew and state.get("source") == ORDINARY:
            with alone(place):
                write_state(place, {name: value for name, value in state.items() if name != "torch"})
        if is_ready(place, wanted):
            return
        with alone(place) as lock:
            if not is_ready(place, wanted):  # another start may have done it while this one waited
                install(place, build, wanted, run or runner(place, lock))
    except OSError as error:
        raise explained(str(error), place, error.errno) from error


def repair(place: Place) -> None:
    """Forget that packages are installed: the next preparation looks at every file, and fetches what is missing."""
    windows.check(place, say)
    try:
        with alone(place):
            state = read_state(place)
            write_state(place, {name: value for name, value in state.items() if name not in ("packages", "tests")})
    except OSError as error:
        raise explained(str(error), place, error.errno) from error


def install(place: Place, build: Build, wanted: Mapping[str, str], run: Run) -> None:
    """Do the steps that the state does not vouch for, and note each one that is done."""
    state = read_state(place)
    if not state or tag_of(place) != state.get("python"):
        state = rejoined(place, state, run) or make_venv(place, run)
    torch_is_there = True
    if "packages" not in state:
        dropped = drop_damaged(place)
        torch_is_there = bool(torch_records(place, wanted["pin"]))
        if any(name.startswith("pip-") for name in dropped):
            run([str(place.python), "-P", "-m", "ensurepip", "--default-pip"])
    # A new pin must not be left to the packages' own step: the ordinary index has no torch for most cards.
    same = state.get("torch") == wanted["torch"] and state.get("pin", wanted["pin"]) == wanted["pin"]
    if not same or not torch_is_there:
        state.pop("packages", None)
        write_state(place, state)
        replace = "torch" in state or state.get("source") == ORDINARY
        state["source"] = install_torch(place, build, run, wanted["pin"], replace=replace)
    state.update(torch=wanted["torch"], pin=wanted["pin"], asked=wanted["asked"])
    write_state(place, state)
    if state.get("packages") != wanted["packages"]:
        state.pop("packages", None)
        write_state(place, state)
        pip(place, run, "install", "-r", str(place.packages))
        pip(place, run, "install", "--no-deps", "-r", str(place.security))
        state["packages"] = wanted["packages"]
        write_state(place, state)
    if "tests" in wanted and state.get("tests") != wanted["tests"]:
        pip(place, run, "install", "-r", str(place.test_tools), "-c", str(place.packages))
        state["tests"] = wanted["tests"]
        write_state(place, state)
    place.log.unlink(missing_ok=True)  # some 25 MB that only a failure makes interesting
    shutil.rmtree(place.temporary, ignore_errors=True)


def rejoined(place: Place, state: State, run: Run) -> State:
    """Join `.venv` to this Python where the one that made it is gone and was of the same kind; the packages stay.

    Return the state, none where that is not possible.
    """
    if starts(place) or state.get("python") != python_tag():
        return {}
    say(f"The Python of {place.venv} is gone or was moved; this one takes its place.")
    for dead in place.python.parent.glob("python*"):
        dead.unlink()  # or it would be taken for a live one and be left as it is
    code, _ = run([sys.executable, "-m", "venv", "--without-pip", str(place.venv)])
    return state if code == 0 and tag_of(place) == python_tag() else {}


def make_venv(place: Place, run: Run) -> State:
    """Make `.venv` and return its state; one that is there and whose Python works is completed instead."""
    windows.check(place, say)
    say(f"Preparing {place.venv}: this happens once and takes some minutes.")
    if os.pathsep in str(place.venv):
        raise InstallError(
            f"The folder's name contains {os.pathsep!r}: {place.folder}.", "Rename it without that sign."
        )
    if shutil.disk_usage(place.folder).free < SMALLEST_GB * 1e9:
        raise explained("No space left on device", place)
    if importlib.util.find_spec("ensurepip") is None:  # Debian packs it separately
        raise explained("No module named ensurepip", place)
    place.state.unlink(missing_ok=True)  # before anything is removed: what is left must not look finished
    if tag_of(place) == python_tag():
        drop_damaged(place)  # the pip in it may be half there, too
        command = [str(place.python), "-P", "-m", "ensurepip", "--default-pip"]
    else:
        if place.venv.exists():
            shutil.rmtree(place.venv)
        command = [sys.executable, "-m", "venv", str(place.venv)]
    code, output = run(command)
    if code != 0:
        raise explained(output, place)
    state = {"python": python_tag()}
    write_state(place, state)
    return state


def install_torch(place: Place, build: Build, run: Run, pin: str, *, replace: bool) -> str:
    """Install torch from PyTorch's own index, or from the ordinary one where that does not answer; say which it was.

    A torch that satisfies the pin is kept, unless `replace` tells that it was installed for other hardware.
    """
    if not pin:
        return ""
    kept = torch_records(place, pin)
    if kept and not replace:
        say(f"{kept[0].removesuffix('.dist-info')} is kept.")
        return ""
    say(f"torch: {build.name} build, because {build.why}.")
    folder, remark = torch_folder(build.name)
    if remark:
        say(remark)
    options = ["--index-url", TORCH_INDEX + folder] if folder else []
    if folder and not answers(f"{TORCH_INDEX}{folder}/torch/"):
        say(f"{TORCH_INDEX}{folder} does not answer; to try it again later, start once with --torch {build.name}.")
        if kept:
            say(f"{kept[0].removesuffix('.dist-info')} is kept, which may be for other hardware.")
            return ORDINARY
        say("The ordinary package index is used instead. Its torch may be for other hardware.")
        options = []
    if kept:
        pip(place, run, "uninstall", "--yes", "torch")  # a plain install would find the pin satisfied
    pip(place, run, "install", f"torch=={pin}", *options)
    return ORDINARY if folder and not options else ""


def pip(place: Place, run: Run, verb: str, *what: str) -> None:
    """Let pip do `verb`; raise InstallError where it fails.

    Only wheels are taken: nothing is compiled here, and no package's set-up code runs. Byte code is left to the first
    import, which needs a small part of it (measured: 25 s to install and 14 s to import, instead of 57 s and 7 s).
    """
    options = ["--no-input", "--log", str(place.log)]
    if verb == "install":
        options += ["--no-compile", "--only-binary", ":all:", "--retries", "3", "--timeout", "15"]
    code, output = run([str(place.python), "-P", "-m", "pip", verb, *options, *what])
    if code != 0:
        raise explained(output, place)


def runner(place: Place, lock: int) -> Run:
    """Return a function that runs a command before the person's eyes and keeps what it writes to standard error.

    The command inherits the lock: a pip that outlives a killed launcher still keeps the next start waiting.
    """
    unwanted = ("PYTHONHOME", "PYTHONPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_REQUIRE_VIRTUALENV")
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    environment.update(PYTHONUTF8="1", PYTHONNOUSERSITE="1", PIP_USER="0", PIP_DISABLE_PIP_VERSION_CHECK="1")
    # Wheels of some gigabytes are unpacked here: /tmp may be a small memory disk.
    environment.update(dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(place.temporary)))

    def run(command: list[str]) -> tuple[int, str]:
        place.temporary.mkdir(parents=True, exist_ok=True)
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=() if sys.platform == "win32" else (lock,),
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        kept: list[str] = []
        for line in process.stderr or ():
            kept.append(line)
            say(line.rstrip(), to=sys.stderr)
        return process.wait(), "".join(kept)

    return run
