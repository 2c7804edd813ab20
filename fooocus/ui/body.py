"""What a browser sends with a request, read with a bound."""

from __future__ import annotations

from starlette.requests import ClientDisconnect, Request


async def read_body(request: Request, limit_bytes: int) -> bytes | None:
    """Return what was sent; nothing if it is more than ``limit_bytes``, or if the browser went away meanwhile."""
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > limit_bytes:
                return None
    except ClientDisconnect:
        return None
    return bytes(body)
