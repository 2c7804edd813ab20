"""Say under the prompt, while it is typed, what in it will not work; nothing is refused, Generate may be pressed."""

from __future__ import annotations

from html import escape

from fooocus.config import Config
from fooocus.prompt.check import Names, Problem, check
from fooocus.prompt.stock import load_stock
from fooocus.ui.choices import model_files

_SHOWN = 2  # more than this is a wall of text under a sentence
_EXCERPT = 24


def hints(prompt: str, config: Config, base: str = "") -> str:
    """Return the line below the prompt, or nothing. Folders are only looked through for names that the prompt uses.

    ``base`` is the model that will draw: one that knows only a few things says so when the prompt names none of them.
    """
    stock = load_stock(config.styles_folder)
    lower = prompt.lower()
    names = Names(
        styles=stock.styles,
        lists=stock.lists,
        loras=tuple(model_files(config, "loras")) if "<lora" in lower else (),
        embeddings=tuple(model_files(config, "embeddings")) if "embedding:" in lower else (),
    )
    found = check(prompt, names)
    limit = stock.presets.outside(prompt, base)
    if not found and not limit:
        return ""
    more = f'<span class="more">and {len(found) - _SHOWN} more</span>' if len(found) > _SHOWN else ""
    told = f"<span>{escape(limit)}</span>" if limit else ""
    return f'<p class="hint" role="status">{told}{"".join(_hint(prompt, p) for p in found[:_SHOWN])}{more}</p>'


def _hint(prompt: str, problem: Problem) -> str:
    start, end = problem.span
    excerpt = prompt[start:end].strip()
    shown = excerpt if len(excerpt) <= _EXCERPT else excerpt[: _EXCERPT - 1] + "…"
    return f"<span><code>{escape(shown)}</code> {escape(problem.sentence)}</span>"
