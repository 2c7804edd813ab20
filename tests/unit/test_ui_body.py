"""A request's body is read with a bound, and a browser that goes away in the middle is no fault."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import Request

from fooocus.ui.body import read_body


def read(messages: list[dict[str, Any]], limit: int) -> bytes | None:
    left = iter(messages)

    async def receive() -> dict[str, Any]:
        return next(left)

    return asyncio.run(read_body(Request({"type": "http", "method": "POST", "headers": []}, receive), limit))


def part(body: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


@pytest.mark.parametrize(
    ("messages", "body"),
    [
        ([part(b"one "), part(b"two", more=False)], b"one two"),
        ([part(b"", more=False)], b""),
        ([part(b"1234"), part(b"56789", more=False)], None),
        ([part(b"one "), {"type": "http.disconnect"}], None),
    ],
)
def test_a_body_is_whole_or_nothing(messages: list[dict[str, Any]], body: bytes | None) -> None:
    assert read(messages, 8) == body
