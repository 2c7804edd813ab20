"""What is shown in place of the page to somebody who is not let in: a document that needs nothing else of us.

Our scripts and styles stand behind the same door, so it brings its own few rules, and its words in all languages.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

# By status and language: what is wrong, and what to do.
_WORDS: Mapping[int, Mapping[str, tuple[str, str]]] = {
    401: {
        "en": ("This page asks for a password.", "It is the one the program was started with; any user name will do."),
        "de": (
            "Diese Seite fragt nach einem Passwort.",
            "Es ist das, mit dem das Programm gestartet wurde; der Benutzername ist beliebig.",
        ),
        "es": (
            "Esta página pide una contraseña.",
            "Es la que se dio al iniciar el programa; el nombre de usuario no importa.",
        ),
        "zh": ("此页面需要密码。", "密码是启动程序时设定的；用户名可以随意填写。"),
    },
    429: {
        "en": ("Too many wrong passwords.", "Wait a minute, then try again."),
        "de": ("Zu viele falsche Passwörter.", "Eine Minute warten, dann erneut versuchen."),
        "es": ("Demasiadas contraseñas incorrectas.", "Espera un minuto y vuelve a intentarlo."),
        "zh": ("密码错误次数过多。", "请等待一分钟后再试。"),
    },
}
_AGAIN: Mapping[str, str] = {"en": "Try again", "de": "Erneut versuchen", "es": "Intentar de nuevo", "zh": "重试"}
_STYLE = (
    ":root{color-scheme:light dark;--ground:#fafafa;--text:#15181e;--muted:#5b6472;--accent:#3b5bdb;--on:#fff}"
    "@media(prefers-color-scheme:dark){:root{--ground:#0f1115;--text:#e8eaf0;--muted:#9aa3b2;--accent:#7c9cff;--on:#0f1115}}"
    "body{margin:0;min-height:100vh;display:grid;place-items:center;background:var(--ground);color:var(--text);"
    'font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}'
    "main{max-width:400px;padding:24px;text-align:center}h1,p{text-wrap:balance}h1{margin:0;font-size:24px;font-weight:400;line-height:1.4}"
    "p{margin:8px 0 24px;color:var(--muted)}"
    "a{display:inline-block;padding:10px 24px;border-radius:12px;background:var(--accent);color:var(--on);"
    "font-weight:600;text-decoration:none}a:focus-visible{outline:2px solid var(--accent);outline-offset:2px}"
)


def document(status: int, languages: str) -> str | None:
    """Return the document of a refusal, or nothing where a plain sentence will do.

    ``languages`` is the browser's ``Accept-Language``; the first one that we speak is taken.
    """
    words = _WORDS.get(status)
    if words is None:
        return None
    asked = (part.strip().lower()[:2] for part in languages.split(","))
    language = next((tag for tag in asked if tag in words), "en")
    sentence, remedy = map(escape, words[language])
    return (
        f'<!doctype html><html lang="{language}"><meta charset="utf-8"><title>Fooocus</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{_STYLE}</style><main><h1>{sentence}</h1><p>{remedy}</p>"
        f'<a href="/">{_AGAIN[language]}</a></main></html>'
    )
