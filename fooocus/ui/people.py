"""Who asks: a browser by its cookie, or, where it keeps none, one page view by the name that it was given."""

from __future__ import annotations

from starlette.requests import Request as WebRequest

from fooocus.ui.guard import owner_of

NO_COOKIE = "page-"
"""How the name of somebody begins whose browser keeps no cookies, and who is known by this one page view."""
_LONGEST_NAME = 120


def asker(request: WebRequest) -> str:
    """Return who asks, or nothing: the cookie's owner, else the page that says ``me`` in the address.

    Nobody takes another's cookie for a name.
    """
    owner = cookie_owner(request)
    me = request.query_params.get("me", "")
    return owner or (me if me.startswith(NO_COOKIE) and len(me) <= _LONGEST_NAME else "")


def cookie_owner(request: WebRequest) -> str:
    """Return whose cookie a request brings, or nothing."""
    return owner_of(request.headers.get("cookie", "")) or ""


def may_see(request: WebRequest, owner: str) -> bool:
    """Whether what belongs to ``owner`` may be shown to who asks for it by its name.

    A picture's frame is asked for by an address alone. Who has no cookie either may see that of a page without, because
    nobody else was told its name.
    """
    cookie = cookie_owner(request)
    return owner == cookie if cookie else owner.startswith(NO_COOKIE)
