"""Start the program; at the first start, prepare everything it needs.

    python launch.py [arguments of the program]     a page in the browser, or a command such as `generate`
    python launch.py test [arguments of pytest]     every check there is
    python launch.py repair                         every installed file is looked at, what is missing fetched
    --torch NAME, or the variable FOOOCUS_TORCH     cuda, cu126, rocm, xpu, cpu or default, kept until changed

Only the standard library is used, because nothing else is there yet. `fooocus/install` chooses the torch build and
makes `.venv`; here are the order of things and the two ways on. `--torch auto` takes an earlier choice back.

The file has no `from __future__ import annotations`: a Python too old for the program must still be able to parse it
and say so, and Python 3.6 does not know that import.
"""

import os
import subprocess
import sys
from pathlib import Path

OLDEST, NEWEST = (3, 11), (3, 14)
HELP = """python launch.py [command] [options]

Makes pictures from a sentence, on this computer. The first start installs what that needs into .venv beside
launch.py: it takes some minutes, the Internet and about 1.2 GB of the disk (10 GB for an NVIDIA card). Later
starts need no network.

  python launch.py                        open the page in the browser
  python launch.py generate "a prompt"    make pictures without the page
  python launch.py doctor                 say what this computer can do, and which model files are here
  python launch.py fetch                  fetch the model files that are missing
  python launch.py bench                  measure how fast this computer is
  python launch.py test                   run every check there is
  python launch.py repair                 look at every installed file, and fetch what is missing

  --torch NAME    cuda, cu126, rocm, xpu, cpu or default: the build of torch to install; left out: what fits

Nothing is installed yet. After the first start --help lists every option."""

if not OLDEST <= sys.version_info[:2] <= NEWEST or sys.maxsize < 2**32:
    kind = "64" if sys.maxsize > 2**32 else "32"
    sys.stderr.write(
        f"Python 3.{OLDEST[1]} to 3.{NEWEST[1]} of 64 bits is needed, and this is {sys.version.split()[0]} of {kind}.\n"
        "Install Python 3.13 from https://www.python.org/downloads/ and start launch.py with it.\n"
    )
    sys.exit(2)

from fooocus.errors import FooocusError  # noqa: E402  the imports from here on need a fitting Python
from fooocus.install.environment import prepare, read_state, repair, say  # noqa: E402
from fooocus.install.hardware import choose_build  # noqa: E402
from fooocus.install.troubles import Place  # noqa: E402
from fooocus.install.windows import steady_console  # noqa: E402


def main(arguments: list[str]) -> int:
    """Prepare, then run the program or its tests; return the exit code."""
    for stream in (sys.stdout, sys.stderr):  # a folder's name may have letters that a redirected console has not
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    place = Place(Path(__file__).resolve().parent)
    steady_console()
    given, arguments = take_option(arguments, "--torch")
    testing, repairing = arguments[:1] == ["test"], arguments == ["repair"]
    state = read_state(place)
    if arguments in (["--help"], ["-h"]) and "packages" not in state:  # nobody who asks for help waits minutes for it
        say(HELP)
        return 0
    try:
        if repairing and state:
            repair(place)
        asked = given or os.environ.get("FOOOCUS_TORCH", "") or state.get("asked", "")
        prepare(place, choose_build(asked, state.get("torch", "")), with_tests=testing, anew=bool(given))
        if repairing:
            say("All packages are there and whole.")
            return 0
        return run_tests(place, arguments[1:]) if testing else hand_over(place, arguments)
    except FooocusError as error:
        say(f"\n{error.sentence}\n{error.remedy}", to=sys.stderr)
        return 2
    except KeyboardInterrupt:
        say("\nStopped. The next start goes on from here.", to=sys.stderr)
        return 130


def take_option(arguments: list[str], name: str) -> tuple[str, list[str]]:
    """Return the value of option `name` ("" where it is absent) and the arguments without it."""
    for i, argument in enumerate(arguments):
        if argument.startswith(name + "="):
            return argument[len(name) + 1 :], arguments[:i] + arguments[i + 1 :]
        if argument == name:
            return (arguments[i + 1] if i + 1 < len(arguments) else "nothing"), arguments[:i] + arguments[i + 2 :]
    return "", arguments


def program_environment(place: Place) -> dict[str, str]:
    """Return the environment of the program: its folder importable, nobody else's, and no telemetry.

    Byte code is written in any case: the packages come without it, and compiling them anew costs seconds a start.
    """
    return {
        **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        "PYTHONPATH": str(place.folder),
        "PYTHONSAFEPATH": "1",
        "PYTHONUTF8": "1",
        "PYTHONNOUSERSITE": "1",
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "PYTORCH_ENABLE_MPS_FALLBACK": "1",
    }


def hand_over(place: Place, arguments: list[str]) -> int:
    """Become the program; on Windows, which has no such call, run it and pass on its exit code."""
    command = [str(place.python), "-m", "fooocus", *arguments]
    if sys.platform != "win32":
        os.execve(command[0], command, program_environment(place))
    process = subprocess.Popen(command, env=program_environment(place))
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # Ctrl+C went to the program as well; it ends in its own time


def run_tests(place: Place, arguments: list[str]) -> int:
    """Run every check even if one fails, pytest last so that its count closes the output; return 0 if all passed."""
    python = [str(place.python), "-m"]
    checks = {
        "ruff check": ["ruff", "check", "."],
        "ruff format": ["ruff", "format", "--check", "."],
        "mypy": ["mypy"],
    }
    failed = []
    for name, command in checks.items():
        say(f"== {name}")
        if subprocess.run([*python, *command], cwd=place.folder, env=program_environment(place)).returncode:
            failed.append(name)
    say("== pytest" if not failed else "== FAILED: " + ", ".join(failed) + "; now pytest")
    tested = subprocess.run([*python, "pytest", *arguments], cwd=place.folder, env=program_environment(place))
    return tested.returncode or (1 if failed else 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
