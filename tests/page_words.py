"""Find every English sentence and label in the source that can reach the page: the keys of the dictionaries.

Nothing is imported or run: the source is read as a tree. A hole of an f-string becomes ``{1}``, ``{2}``, ...; a choice
between two texts inside one becomes two keys. HTML is taken apart into its texts and its readable attributes.

``python -m tests.page_words`` prints what the dictionaries lack or hold in vain, to be copied into them.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STATIC = ROOT / "fooocus" / "ui" / "static"
WORDS = STATIC / "words"
ELSEWHERE = ROOT / "tests" / "data" / "words_elsewhere.txt"
LANGUAGES = ("de", "es", "zh")

# Short words that only their place makes readable, and what Gradio itself says. The first ones are looked for in ui.
PLACED = ("ready", "checking", "paused", "into", "none")
JOINED = ("{1} s", "{1} h", "in {1}", "{1} ({2})", "{1} of {2}", "{1} to {2}", "{1} is {2}.", "Width", "Height")
JOINED += ("number input for {1}", "range slider for {1}", "Reset to default value", "No options", "More tabs")
# Proper names, the same in every language.
SAME = re.compile(
    r"(?:(?:DPM\+\+|DPM|2M|3M|2S|SDE|Euler|Heun|LMS|DDIM|UniPC|LCM|Karras|SGM|[Aa]ncestral|[Uu]niform|Exponential|Simple"
    r"|Normal|Beta|Align your steps|Fooocus|PNG|JPEG|WebP|VAE|LoRA|SDXL|Stable|Diffusion|XL|[\d.]+|\{1\})(?: |$))+"
)

# Rooms whose words are said in a console, a log or a file only.
_SILENT = (
    "bench/",
    "cli.py",
    "config.py",
    "app.py",
    "__main__.py",
    "install/",
    "images/log.py",
    "jobs/lock.py",
    "ui/guard.py",
    "ui/refusals.py",
)
_SILENT += ("ui/report.py", "ui/discreet.py", "ui/data.py", "ui/compiled.py", "ui/files.py", "ui/protocol.py")
_SILENT += ("models/catalogue.py", "models/commands.py", "models/computer.py", "ui/shell.py", "ui/theme.py")
# What is wrong inside a refused file is told in the field's own terms, as a detail of a sentence that is translated.
_SILENT += ("families/clip_text.py", "families/layout.py", "families/sdxl", "families/tokenizer.py")
_DEFECTS = {"ValueError", "TypeError", "RuntimeError", "AssertionError", "KeyError", "NotImplementedError", "OSError"}
_LOGS = {
    "debug",
    "info",
    "warning",
    "error",
    "exception",
    "critical",
    "execute",
    "executescript",
    "compile",
    "strftime",
}
_TECHNICAL = {"elem_id", "elem_classes", "js", "api_name", "key", "name", "type", "layout", "doc", "pattern", "help"}
_READ_ALOUD = ("placeholder", "title", "aria-label", "alt", "aria-description")
_SQL = re.compile(r"\s*(CREATE|PRAGMA|SELECT|INSERT|UPDATE|DELETE|BEGIN|ALTER|DROP|WITH|COMMIT|ROLLBACK|ORDER|WHERE) ")
_HOLE = "\ue000"  # stands for a hole while a text is taken apart
_WORD = r"[^\W\d_]"
_SEVERAL_WORDS = re.compile(
    rf"{_WORD}+[,;:'’.]* +{_WORD}{{2,}}|{_WORD}{{3,}} +[\d\ue000]|[\d\ue000] +{_WORD}{{3,}}"
    rf"|\ue000 +{_WORD} +{_WORD}{{2,}}"
)
_CODE = re.compile(r"=>|SELECT|<x:|-src '|^[a-z]+=|[a-z_]\(|\[[\w-]+=|\\[sdw]|\(\?!|^[GR]TX |IN \(")
_ONE_WORD = re.compile(r"[A-Z][a-z]{2,}[.…]?")
_EDGES = " \n\t,;·–"


def found() -> dict[str, str]:
    """Return the keys, each with the place it was found at."""
    keys: dict[str, str] = {}
    for file in sorted((ROOT / "fooocus").rglob("*.py")):
        path = file.relative_to(ROOT / "fooocus").as_posix()
        if not path.startswith(_SILENT):
            for text, line in _texts(ast.parse(file.read_text(encoding="utf-8")), path):
                for key in _keys(text, path.startswith("ui/")):
                    keys.setdefault(key, f"fooocus/{path}:{line}")
    for key in (*PLACED, *JOINED, *_catalogue(), *_presets(), *_choices()):
        keys.setdefault(key, "tests/page_words.py")
    for file in sorted(STATIC.rglob("*.css")):
        for text in re.findall(r'var\(--word-[\w-]+, "([^"]+)"\)', file.read_text(encoding="utf-8")):
            keys.setdefault(text, file.name)
    for file in sorted(STATIC.rglob("*.js")):
        for text, line in _script_texts(file.read_text(encoding="utf-8")) if file.name != "words.js" else ():
            for key in _keys(text, True):
                keys.setdefault(key, f"fooocus/ui/static/{file.name}:{line}")
    return keys


def _catalogue() -> Iterator[str]:
    """Yield what the catalogue says of a file: what it is called and what it is for."""
    for entry in json.loads((ROOT / "fooocus" / "models" / "catalogue.json").read_text(encoding="utf-8")).values():
        name, _, purpose = entry["purpose"].partition(":")
        yield from (name[:1].upper() + name[1:], purpose.strip())


def _presets() -> Iterator[str]:
    """Yield what the presets that come with the program are called and say of themselves."""
    for file in sorted((ROOT / "styles" / "presets").glob("*.json")):
        preset = json.loads(file.read_text(encoding="utf-8"))
        yield from (file.stem.capitalize(), preset["about"])
        if "knows" in preset:
            yield preset["knows"]["sentence"]


def _choices() -> Iterator[str]:
    """Yield what lists offer that is made of the values themselves."""
    from fooocus.ui.choices import shown
    from fooocus.ui.fields import METADATA, ROWS

    for row in ROWS:
        for name in METADATA[row.name]["choices"] if row.kind in ("choice", "pills") else ():
            for part in shown(name).split(" · "):
                if not re.search(r"\d", part):
                    yield part


def _texts(tree: ast.AST, path: str) -> Iterator[tuple[str, int]]:
    """Yield the texts of a module, holes marked, without docstrings and what only programs read."""
    passed: set[int] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant() as text):  # docstrings, of attributes too
                passed.add(id(text))
            case ast.Raise(exc=ast.Call(func=ast.Name(id=name))) if name in _DEFECTS:
                passed |= {id(inner) for inner in ast.walk(node)}
            case ast.Call(func=ast.Attribute(attr=name)) if name in _LOGS:
                passed |= {id(inner) for inner in ast.walk(node)}
            case ast.Assert():
                passed |= {id(inner) for inner in ast.walk(node)}
            case ast.keyword(arg=name) if name in _TECHNICAL:
                passed |= {id(inner) for inner in ast.walk(node.value)}
            case ast.JoinedStr():
                passed |= {id(value) for value in node.values if isinstance(value, ast.Constant)}
            case ast.BinOp(op=ast.Add()):
                passed |= {
                    id(side) for side in (node.left, node.right) if isinstance(side, ast.Constant | ast.JoinedStr)
                }
            case ast.Subscript() | ast.Compare():
                passed |= {id(inner) for inner in ast.walk(node) if isinstance(inner, ast.Constant)}
    for node in ast.walk(tree):
        if id(node) not in passed and isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp):
            for text in _alternatives(node):
                if not _SQL.match(text):
                    yield text, getattr(node, "lineno", 0)


def _alternatives(node: ast.AST) -> list[str]:
    """Return what an expression may read, with a mark for what is not known before it runs."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=values):
            return ["".join(parts) for parts in itertools.islice(itertools.product(*map(_alternatives, values)), 64)]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return [a + b for a, b in itertools.product(_alternatives(left), _alternatives(right))]
        case ast.FormattedValue(value=ast.IfExp() as choice):
            return _alternatives(choice.body) + _alternatives(choice.orelse)
    return [_HOLE]


class _Readable(HTMLParser):
    """Collect what of a piece of HTML a person reads or hears."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.texts += [value for name, value in attrs if name in _READ_ALOUD and value]
        self._silent += tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in ("style", "script")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.texts.append(data)


def _keys(text: str, in_ui: bool) -> Iterator[str]:
    parts = [text]
    if re.search(r"</?[a-z][\w-]*[ >\ue000]", text):
        reader = _Readable()
        reader.feed(text)
        reader.close()
        parts = reader.texts
    for part in itertools.chain.from_iterable(part.split(" · ") for part in parts):
        part = part.strip(_EDGES)
        single = in_ui or len(parts) > 1 or "<" in text
        if _CODE.search(part):
            continue
        if in_ui and (
            label := re.fullmatch(rf"([A-Z]{_WORD}{{2,}}): {_HOLE}", part)
        ):  # what stands before the colon is one key
            yield label[1]
            continue
        if _SEVERAL_WORDS.search(part) or (single and _ONE_WORD.fullmatch(part.replace(_HOLE, "").strip())):
            first, *rest = part.split(_HOLE)
            yield first + "".join(f"{{{number}}}{text}" for number, text in enumerate(rest, start=1))


_SCRIPT_TEXT = re.compile(
    r"""//[^\n]*|/\*.*?\*/|"((?:[^"\\\n]|\\.)*)"|'((?:[^'\\\n]|\\.)*)'|`((?:[^`\\]|\\.)*)`""", re.S
)


def _script_texts(script: str) -> Iterator[tuple[str, int]]:
    """Yield the texts of a script; of a template only its own words, with its holes marked."""
    for match in _SCRIPT_TEXT.finditer(script):
        text = next((group for group in match.groups() if group is not None), "")
        bare = re.sub(r"\$\{[^}]*\}", "", text)
        if text and not re.search(r"^[#.\[(:]|[=>{}\[\]]|\w\.\w|#\w", bare):
            yield re.sub(r"\$\{[^}]*\}", _HOLE, text), script.count("\n", 0, match.start()) + 1


def elsewhere() -> set[str]:
    """Return the texts that look as if they were for the page and are not, or stay English on purpose."""
    lines = ELSEWHERE.read_text(encoding="utf-8").splitlines()
    return {line for line in lines if line and not line.startswith("# ")}


def dictionary(language: str) -> dict[str, str]:
    """Return the dictionary of a language."""
    return dict(json.loads((WORDS / f"{language}.json").read_text(encoding="utf-8")))


def wanted(texts: Mapping[str, str]) -> dict[str, str]:
    """Return those of ``texts`` that every dictionary must have, each with its place."""
    passed = elsewhere()
    return {key: place for key, place in texts.items() if key not in passed and not SAME.fullmatch(key)}


def main() -> None:
    """Print what is missing and what is stale."""
    keys = wanted(found())
    books = [dictionary(language) for language in LANGUAGES]
    for key, place in keys.items():
        lacking = [language for language, book in zip(LANGUAGES, books, strict=True) if key not in book]
        if lacking:
            print(f"missing in {', '.join(lacking)} ({place}):\n{key}")
    for key in sorted(set().union(*books) - keys.keys()):
        print(f"stale:\n{key}")


if __name__ == "__main__":
    main()
