"""Take out of a text what tells who somebody is and what they drew, so that it can be shown to strangers.

What is known to be private is replaced wherever it stands: prompts and their parts, names of models, of the person and
of the computer, folders. What only looks private is replaced by its form: paths, addresses, tokens, quoted texts.
Rather a word too many goes than one too few.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

_COMMON_USERS = {"root", "user", "admin", "runner", "home", "ubuntu", "administrator", "default", "public"}
# Words of a prompt that also are words of error messages stay: alone they tell nothing.
_TECHNICAL = frozenset(
    re.findall(
        r"\w+",
        "memory cuda error errors size file files device model models tensor tensors none true false "
        "with from this that have cannot could when while into over only more than there their about "
        "after before which where step steps picture pictures shape shapes dtype float half card "
        "graphics free allocate allocated tried total process value values expected index range "
        "dimension number numbers list type wrong missing line lines name names read write open "
        "closed disk full space left denied found ",
    )
)
_WORD = re.compile(r"[^\W\d_]{4,}")  # of a prompt, that is taken out by itself
_SHORTEST_PART = 8

_FILE_LINE = re.compile(r'^(.*?File )"([^"]*)"(, line \d+.*)$')
_KEPT_TAIL = re.compile(
    r"^.*(?:^|[\\/])((?:(?:site|dist)-packages|python3\.\d+)[\\/][\w.\\/-]+|fooocus[\\/](?:\w+[\\/])*\w+\.py)$"
)
_SOURCE_LINE = re.compile(r"^(?:\d{4}-\d\d-\d\d \d\d:\d\d:\d\d )?\s{4}\S")  # a line of code below its file's line
_QUOTED = re.compile(r"""(?<!\w)(?:'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|“[^”\n]*”|‘[^’\n]*’|`[^`\n]*`)""")
_GUESS = re.compile(r"Did you mean [^\n]*?\?|Known are [^\n]*")
_FORMS = (
    (re.compile(r"\bhf_[A-Za-z0-9]{8,}"), "<token>"),
    (re.compile(r"(?i)(?<![<\w])(password|passwd|token|secret|api[_-]?key|authorization)(\W{1,3})\S+"), r"\1\2<token>"),
    (re.compile(r"(?i)\b[a-z][a-z0-9+.-]*://[^\s\"'<>]+"), "<address>"),
    (re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*"), "<address>"),
    (re.compile(r"\b(?!127\.0\.0\.1\b|0\.0\.0\.0\b)(?:\d{1,3}\.){3}\d{1,3}\b"), "<address>"),
    (re.compile(r"\b(?:[0-9a-fA-F]{1,4}:){4,7}[0-9a-fA-F]{1,4}\b"), "<address>"),
    # A path, and what follows a space in it as long as that has a separator too.
    (
        re.compile(
            r"(?:<folder>[\\/]|(?<![\w<.>)])(?:[A-Za-z]:[\\/]|\\\\|/|~[\w.-]*[\\/]|%\w+%[\\/]))[^\s\"'<>|]*"
            r"(?: [^\s\"'<>|/\\]+[\\/][^\s\"'<>|]*)*"
        ),
        "<path>",
    ),
)
_FILE = re.compile(r"[^\s\"'/\\<>]+\.(?:safetensors|ckpt|pth?|png|jpe?g|webp|json|txt)\b", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Private:
    """What is known to be private: whole ``texts`` (prompts), ``names`` (of files, styles, people), ``folders``."""

    texts: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


def cleaned(text: str, private: Private) -> str:
    """Return the text without what is private, line by line."""
    return "\n".join(_line(line, private) for line in text.splitlines())


def _line(line: str, private: Private) -> str:
    if place := _FILE_LINE.match(line):
        tail = _KEPT_TAIL.search(place[2])
        # Of a file of ours or of a library, its place in the package is what helps; of others nothing does.
        return f'{_forms(place[1], private)}"{tail[1] if tail else "<file>"}"{_forms(place[3], private)}'
    line = _forms(_GUESS.sub("", line), private)
    if not _SOURCE_LINE.match(line):
        line = _words(_QUOTED.sub("<text>", line), private)
    return _FILE.sub("<file>", line)


def _forms(line: str, private: Private) -> str:
    """Replace what is known, and what has a form of its own; names last, as they stand inside of paths."""
    for text in _longest_first(_spellings(private.texts)):
        line = _replace(line, text, "<prompt>")
    for folder in _longest_first(_slashes(private.folders)):
        line = _replace(line, folder, "<folder>")
    for form, instead in _FORMS:
        line = form.sub(instead, line)
    for name in _longest_first(private.names):
        if len(name) >= 3 and name.casefold() not in _COMMON_USERS:
            line = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "<name>", line, flags=re.IGNORECASE)
    return line


def _words(line: str, private: Private) -> str:
    """Take out the single words of the prompts; an error may quote one of them only."""
    words = {word for text in private.texts for word in _WORD.findall(text)}
    for word in _longest_first(word for word in words if word.casefold() not in _TECHNICAL):
        line = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", "<word>", line, flags=re.IGNORECASE)
    return line


def _spellings(texts: Iterable[str]) -> Iterable[str]:
    """Yield each text and its parts as they may stand in a message: plain, and as Python and JSON write them."""
    for text in texts:
        parts = {text, *text.splitlines(), *re.split(r"[\n,.;]", text)}
        for part in (part.strip() for part in parts):
            if len(part) >= _SHORTEST_PART or part == text.strip():
                yield from {part, repr(part)[1:-1], part.encode("unicode_escape").decode("ascii")}


def _slashes(folders: Iterable[str]) -> Iterable[str]:
    for folder in folders:
        bare = folder.rstrip("\\/")
        if len(bare) > 3:  # a whole disk is no secret
            yield from {bare, bare.replace("\\", "\\\\"), bare.replace("\\", "/"), bare.replace("/", "\\")}


def _longest_first(texts: Iterable[str]) -> list[str]:
    return sorted({text for text in texts if text}, key=lambda text: (-len(text), text))


def _replace(line: str, text: str, instead: str) -> str:
    return re.sub(re.escape(text), lambda _: instead, line, flags=re.IGNORECASE)
