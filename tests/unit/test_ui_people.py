"""Who asks, by cookie or by the name of a page view, and what they may see."""

from __future__ import annotations

import pytest
from starlette.requests import Request as WebRequest

from fooocus.ui.people import asker, may_see

TOKEN = "QUJDREVGR0hJSktMTU5PUA"


def request(cookie: str = "", query: str = "") -> WebRequest:
    headers = [(b"cookie", f"fooocus_owner={cookie}".encode())] if cookie else []
    return WebRequest({"type": "http", "headers": headers, "query_string": query.encode()})


@pytest.mark.parametrize(
    ("cookie", "query", "who"),
    [
        (TOKEN, "", TOKEN),
        (TOKEN, "me=page-x", TOKEN),
        ("", "me=page-x", "page-x"),
        ("", f"me={TOKEN}", ""),
        ("", "me=page-" + "x" * 200, ""),
        ("short", "", ""),
        ("", "", ""),
    ],
)
def test_who_asks(cookie: str, query: str, who: str) -> None:
    assert asker(request(cookie, query)) == who


@pytest.mark.parametrize(
    ("cookie", "owner", "may"),
    [
        (TOKEN, TOKEN, True),
        (TOKEN, "another-person-of-all", False),
        (TOKEN, "page-x", False),
        ("", "page-x", True),
        ("", TOKEN, False),
        ("", "", False),
    ],
)
def test_what_is_shown_to_whom(cookie: str, owner: str, may: bool) -> None:
    assert may_see(request(cookie), owner) is may
