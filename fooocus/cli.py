"""The command line: arguments to settings and request, and words for the person. The only place that prints.

``python launch.py`` opens the page, ``python launch.py generate "a prompt"`` makes pictures without one. Every field of
:class:`~fooocus.request.Request` and of :class:`~fooocus.config.Config` is an option by its own name.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import logging
import os
import secrets
import sys
import traceback
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from fooocus import events
from fooocus.config import Config, load_config
from fooocus.errors import ConfigError, FooocusError, MissingModel, RequestError, StorageError
from fooocus.events import Cancelled, Event, Failed, Finished, Notice, Saved, Stage, Step
from fooocus.images.findings import Known
from fooocus.prompt.plan import again, plan, with_seed
from fooocus.prompt.presets import STAND_IN, layered
from fooocus.prompt.stock import Stock, load_stock
from fooocus.request import MAX_SEED, NONE, Request, parse_lora, parse_size

if TYPE_CHECKING:
    from fooocus.models.fetch import Progress
    from fooocus.models.first_run import FirstRun

EXIT_FAILED, EXIT_WRONG_USE, EXIT_STOPPED = 1, 2, 130

# Fields whose option takes several values or another form than the field's own.
_REPEATED = {"styles": ("--style", "NAME|none"), "loras": ("--lora", "FILE|NAME:WEIGHT")}
_PATH_FIELDS = ("base", "refiner", "vae")
_CONFIG_OPTIONS = [field for field in dataclasses.fields(Config) if not field.metadata.get("file_only")]
_UNTIL_THEN = f"Until it is there, --preset {STAND_IN} draws simple shapes with the model that comes along."
_COMMANDS = ("generate", "doctor", "fetch", "bench", "test", "repair")  # the last two are launch.py's own
_STAGES = {
    "starting": "starting",
    "loading": "loading the models",
    "reading": "reading the prompt",
    "sampling": "painting",
    "refining": "refining",
    "decoding": "developing the picture",
    "saving": "saving",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code: 0 done, 1 failed, 2 wrong use, 130 stopped."""
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    except FooocusError as error:
        print(f"{error.sentence} {error.remedy}".strip(), file=sys.stderr)
        return EXIT_WRONG_USE
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return EXIT_STOPPED
    except Exception as error:  # noqa: BLE001  # a broad catch: the last line of defence
        traceback.print_exc()
        told = f"The program made a mistake: {type(error).__name__}: {error}. Please report the lines above."
        print(told, file=sys.stderr)
        return EXIT_FAILED


def _run(arguments: list[str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        # A prompt may hold what a Windows console or a lone surrogate cannot show; that must not end a run.
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    match arguments:
        case ["generate", *rest]:
            return _generate(_generate_parser().read(rest))
        case ["doctor", *rest]:
            return _doctor(_models_parser("doctor").read(rest))
        case ["fetch", *rest]:
            return _fetch(_models_parser("fetch").read(rest))
        case ["bench", *rest]:
            return _bench(rest)
        case [word, *_] if word[:1] != "-":
            raise _mistyped("command", word, _COMMANDS, "launch.py")
    return _page(_page_parser().read(arguments))


def _page(parsed: argparse.Namespace) -> int:
    from fooocus import app

    def ready(url: str) -> None:
        closing = "" if sys.platform == "win32" else "close this window or "  # there it ends at once, its job undone
        print(f"The page is at {url} - {closing}press Ctrl+C to end.", flush=True)

    config = _config(parsed)
    request = _request(parsed, _beginning(parsed, config, load_stock(config.styles_folder)))
    left = app.run_page(config, request, ready)
    print(f"Ended.{f' {_jobs(left)} at the next start.' if left else ''}", flush=True)
    return 0


def _jobs(count: int) -> str:
    return "1 job goes on" if count == 1 else f"{count} jobs go on"


def _generate(parsed: argparse.Namespace) -> int:
    from fooocus import app

    if parsed.text is not None and parsed.prompt is not None:
        raise RequestError("prompt", "The prompt is given twice.", "Give it once, in quotes.")
    if parsed.prompt is None:
        parsed.prompt = parsed.text
    config = _config(parsed)
    stock = load_stock(config.styles_folder)
    for problem in stock.problems:
        print(problem, file=sys.stderr)
    request = with_seed(_request(parsed, _beginning(parsed, config, stock)), lambda: secrets.randbelow(MAX_SEED + 1))
    if parsed.dry_run:
        recipes = plan(request, stock.styles, stock.lists)
        print(json.dumps([recipe.to_json() for recipe in recipes], indent=2))
        return 0
    if limit := stock.presets.outside(request.prompt, request.base):
        print(limit, file=sys.stderr)
    codes: list[int] = []
    tell = _tell_json if parsed.json else _tell_words

    def emit(event: Event) -> None:
        tell(event)
        match event:
            case Finished():
                codes.append(0)
            case Failed(code=code, field=field):
                spare = app.stand_in(config, request) if code == MissingModel.__name__ else None
                if spare and spare.base != request.base and parsed.preset != STAND_IN:
                    print(_UNTIL_THEN, file=sys.stderr)
                wrong_use = field is not None or code == ConfigError.__name__
                codes.append(EXIT_WRONG_USE if wrong_use else EXIT_FAILED)
            case Cancelled():
                codes.append(EXIT_STOPPED)

    latents = Path(os.path.abspath(parsed.save_latents)) if parsed.save_latents else None
    app.generate(config, request, emit, latents)
    return codes[-1]


def _doctor(parsed: argparse.Namespace) -> int:
    from fooocus.models.commands import SEARCH_SECONDS, doctor

    with closing(_first_run(parsed)) as run:
        if parsed.json:
            run.begin()
            run.wait(SEARCH_SECONDS)
            print(json.dumps(run.survey().to_json(), indent=2))
            return 0
        for line in doctor(run):
            print(line)
    return 0


def _fetch(parsed: argparse.Namespace) -> int:
    from fooocus.models.commands import fetch
    from fooocus.models.report import progress_line
    from fooocus.models.troubles import DownloadError

    def tell(progress: Progress) -> None:
        if parsed.json:
            print(json.dumps(progress.to_json()), flush=True)
        elif sys.stderr.isatty():
            print(f"\r\x1b[K{progress_line(progress)}", end="", file=sys.stderr, flush=True)

    with closing(_first_run(parsed)) as run:
        try:
            progress = fetch(run, parsed.files or None, tell)
        except (DownloadError, StorageError) as error:
            print(f"\n{error.sentence} {error.remedy}".strip(), file=sys.stderr)
            return EXIT_FAILED
        if not parsed.json:
            print("\r\x1b[K" if sys.stderr.isatty() else "", end="", file=sys.stderr)
            print(f"Fetched {progress_line(progress)}." if progress.files else "Everything is here.")
    return 0


def _bench(arguments: list[str]) -> int:
    from fooocus import app
    from fooocus.bench.options import add_options, read_options
    from fooocus.bench.report import markdown, save

    parser = _Parser(prog="launch.py bench", description="Measure how fast this computer is.")
    add_options(parser)
    _add_config_options(parser, ("models", "data", "device", "dtype", "fast", "extra_models"))
    parsed = parser.read(arguments)
    result = app.bench(_config(parsed), read_options(parsed), lambda text: print(text, file=sys.stderr, flush=True))
    table, values = save(result, read_options(parsed).out)
    print(json.dumps(result) if parsed.json else markdown(result))
    print(f"Written to {table} and {values.name}.", file=sys.stderr)
    return 0


def _first_run(parsed: argparse.Namespace) -> FirstRun:
    from fooocus import app

    config = _config(parsed)
    return app.first_run(config, _beginning(parsed, config, load_stock(config.styles_folder)), os.environ)


def _beginning(parsed: argparse.Namespace, config: Config, stock: Stock) -> Request:
    """Return what the options are put over: a picture's settings, or preset and config file on the defaults."""
    if parsed.source and parsed.preset:
        raise RequestError("preset", "Both --from and --preset are given.", "Choose one to begin with.")
    if parsed.preset:
        return layered(config.request, stock.presets.find(parsed.preset).values)  # asked for just now
    if not parsed.source:
        return layered(config.request)
    from fooocus.images.foreign import read_settings  # brings Pillow, which other commands do without
    from fooocus.images.metadata import read_recipe

    source = Path(parsed.source)
    if source.suffix.lower() == ".json" and (recipe := read_recipe(source)):
        return again(recipe, stock.styles, stock.lists)
    found = read_settings(source, Known(styles=stock.styles.names))
    if found is None:
        raise RequestError("from", f"{source} carries no settings.", "Choose a picture made by this or a like program.")
    for warning in found.warnings:
        print(warning, file=sys.stderr)
    return again(found.recipe, stock.styles, stock.lists) if found.recipe else layered(found.values)


def _tell_json(event: Event) -> None:
    print(json.dumps(events.to_json(event)), flush=True)


def _tell_words(event: Event) -> None:
    """Say an event on the terminal: one moving line for steps, plain lines for the rest."""
    clear = "\r\x1b[K" if sys.stderr.isatty() else ""
    match event:
        case Stage(name, picture, pictures) if name != "saving":
            print(f"{clear}picture {picture} of {pictures}: {_STAGES[name]}", file=sys.stderr, flush=True)
        case Step(picture, pictures, step, steps) if clear:
            print(
                f"{clear}picture {picture} of {pictures}: step {step} of {steps}", end="", file=sys.stderr, flush=True
            )
        case Notice(text):
            print(f"{clear}{text}", file=sys.stderr)
        case Saved(path=path):
            print(f"{clear}", end="", file=sys.stderr)
            print(path, flush=True)
        case Failed(sentence=sentence, remedy=remedy):
            print(f"{clear}{sentence} {remedy}".rstrip(), file=sys.stderr)
        case Cancelled():
            print(f"{clear}Stopped.", file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, where argparse would print all options above it."""

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        self.allow_abbrev = False  # --model is meant for another option than --models
        parsed, left = self.parse_known_args(arguments)
        for word in sorted(left, key=lambda word: word[:1] != "-"):  # what follows an unknown option may be its value
            if word[:1] == "-":
                raise _mistyped("option", word.partition("=")[0], self._option_string_actions, self.prog)
            raise RequestError("prompt", f"{word!r} is one word too many.", "A prompt of several words goes in quotes.")
        return parsed

    def error(self, message: str) -> NoReturn:
        raise RequestError("option", f"{message[:1].upper()}{message[1:].rstrip('.')}.", _help(self.prog))


def _mistyped(kind: str, word: str, known: Collection[str], prog: str) -> RequestError:
    near = difflib.get_close_matches(word, known, n=2, cutoff=0.8) or difflib.get_close_matches(word, known, n=1)
    guess = f"Did you mean {' or '.join(near)}? " if near else ""
    return RequestError(kind, f"There is no {kind} {word[:60]!r}.", guess + _help(prog))


def _help(prog: str) -> str:
    return f"Help: python {prog} --help"


def _generate_parser() -> _Parser:
    parser = _Parser(prog="launch.py generate", description="Make pictures without the page.")
    parser.add_argument("text", nargs="?", metavar="PROMPT", help="what the picture shows")
    _add_request_options(parser)
    _add_config_options(parser)
    parser.add_argument("--save-latents", metavar="FILE", help="also write the final latents, for inspection")
    parser.add_argument("--dry-run", action="store_true", help="print the recipes as JSON and make no picture")
    parser.add_argument("--json", action="store_true", help="one line of JSON per event on standard output")
    return parser


def _models_parser(command: Literal["doctor", "fetch"]) -> _Parser:
    text = {
        "doctor": "Say what this computer can do, and which model files are here.",
        "fetch": "Fetch the model files that are missing; copies on this disk are used.",
    }
    parser = _Parser(prog=f"launch.py {command}", description=text[command])
    if command == "fetch":
        parser.add_argument("files", nargs="*", metavar="FILE", help="only these; left out: all that are missing")
    parser.add_argument("--preset", metavar="NAME", help="the preset whose models are meant")
    parser.add_argument("--json", action="store_true", help="JSON on standard output")
    parser.set_defaults(source=None)
    _add_config_options(parser)
    return parser


def _page_parser() -> _Parser:
    parser = _Parser(
        prog="launch.py",
        description=f"Open the page. Other commands: {', '.join(_COMMANDS)}. "
        "Options of generate set what the page begins with.",
    )
    _add_request_options(parser)
    _add_config_options(parser)
    return parser


def _add_request_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to make")
    group.add_argument("--from", dest="source", metavar="PICTURE", help="begin with the settings inside a picture")
    group.add_argument("--preset", metavar="NAME", help="begin with a preset: default, quality, pocket or your own")
    for field in dataclasses.fields(Request):
        text = field.metadata["help"]
        if field.name in _REPEATED:
            option, shape = _REPEATED[field.name]
            group.add_argument(option, dest=field.name, action="append", metavar=shape, help=f"{text}; repeatable")
        elif field.name == "size":
            group.add_argument("--size", type=_argument(parse_size), metavar="WxH", help=text)
        else:
            group.add_argument(
                f"--{field.name.replace('_', '-')}",
                dest=field.name,
                type=_argument(_NUMBERS[str(field.type).removesuffix(" | None")]),
                metavar="|".join(field.metadata.get("choices", ())) or field.name.upper(),
                help=text,
            )


def _add_config_options(parser: argparse.ArgumentParser, only: Collection[str] = ()) -> None:
    group = parser.add_argument_group("where and how")
    for field in (field for field in _CONFIG_OPTIONS if not only or field.name in only):
        names = [f"--{field.name.replace('_', '-')}", *(["--out"] if field.name == "outputs" else [])]
        help_text = field.metadata["help"]
        if field.type == "bool":
            group.add_argument(
                *names, dest=field.name, action=argparse.BooleanOptionalAction, default=None, help=help_text
            )
        else:
            group.add_argument(*names, dest=field.name, metavar=field.name.upper(), help=help_text)


def _config(parsed: argparse.Namespace) -> Config:
    given = {field.name: getattr(parsed, field.name, None) for field in _CONFIG_OPTIONS}
    return load_config(given, os.environ)


def _request(parsed: argparse.Namespace, begin: Request) -> Request:
    """Put the options that were given over ``begin``; relative paths of files become absolute here."""
    given: dict[str, Any] = {f.name: getattr(parsed, f.name) for f in dataclasses.fields(Request)}
    given = {name: value for name, value in given.items() if value is not None}
    for name in _PATH_FIELDS:
        if name in given:
            given[name] = _absolute(given[name])
    if "styles" in given:
        given["styles"] = [style for style in given["styles"] if style.lower() != NONE]
    if "loras" in given:
        uses = (parse_lora(text) for text in given["loras"] if text.lower() != NONE)
        given["loras"] = [[_absolute(use.name), use.weight] for use in uses]
    if "size" in given:
        given["size"] = str(given["size"])
    below = begin.to_json()
    for name in ("base", "refiner"):
        # A picture names its models without their folders: the same name at a path is no other model.
        if name in given and os.path.basename(given[name]) == below[name]:
            below[name] = given[name]
    return layered(below, given)


def _absolute(name: str) -> str:
    """Return the absolute path of a file that is there; anything else is a name for the catalogue."""
    return os.path.abspath(name) if os.path.isfile(name) else name


def _argument(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    """Let argparse show an error's own sentence instead of the converter's name."""

    def converted(text: str) -> Any:
        try:
            return convert(text)
        except RequestError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None

    return converted


_NUMBERS: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "str": str}
