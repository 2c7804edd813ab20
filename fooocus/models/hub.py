"""Where files come from: addresses, mirrors, tokens, and the one HTTP client that all of it goes through.

Conventions are those of huggingface_hub: ``HF_ENDPOINT``, ``HF_TOKEN`` or a stored login, its address scheme, its cache
folder. Its own requests are not used: it restarts at byte 0 after a break, and it refuses to ask while
``HF_HUB_OFFLINE`` is set, which the page process does for the sake of the other libraries.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fooocus.errors import ConfigError, StorageError
from fooocus.models.catalogue import Entry
from fooocus.models.troubles import DownloadError, HubBusy, HubLacksFile, HubRefuses, NoConnection, WrongAnswer

if TYPE_CHECKING:  # the page opens before anything is asked, and importing it takes a tenth of a second
    import httpx

HUB = "https://huggingface.co"
_LOGIN = re.compile(r"^(https?://)(?:([^/\s]*)@)?")


@dataclasses.dataclass(frozen=True)
class Source:
    """A hub or a mirror with the hub's address scheme. The token goes to the person's own hub and to no mirror.

    ``login`` is the "name:password" of the address as given; ``endpoint`` is free of it, because it is said and logged.
    """

    endpoint: str
    token: str | None = dataclasses.field(default=None, repr=False)
    login: str | None = dataclasses.field(default=None, repr=False)

    def address(self, entry: Entry) -> str:
        """Return the address of a file."""
        from huggingface_hub import hf_hub_url

        return hf_hub_url(entry.repository, entry.path, revision=entry.revision, endpoint=self.endpoint)

    def headers(self) -> dict[str, str]:
        """Return what is sent with each request."""
        headers = {"User-Agent": "fooocus", "Accept-Encoding": "identity"}
        if self.login:
            packed = base64.b64encode(urllib.parse.unquote(self.login).encode()).decode()
            return headers | {"Authorization": f"Basic {packed}"}
        return headers | ({"Authorization": f"Bearer {self.token}"} if self.token else {})


def sources(environment: Mapping[str, str], mirrors: Sequence[str] = ()) -> tuple[Source, ...]:
    """Return the person's hub and then the mirrors, in the order in which they are tried.

    Raises :class:`~fooocus.errors.ConfigError` for an address that is none, and for a token that cannot be sent;
    secrets are not quoted.
    """
    from huggingface_hub import get_token

    token = (environment.get("HF_TOKEN") or get_token() or "").strip() or None
    problems = []
    if token and not re.fullmatch(r"[!-~]+", token):
        problems.append("The token of the hub (HF_TOKEN, or the stored login) holds a character that no token has.")
    own = environment.get("HF_ENDPOINT", "").rstrip("/") or HUB
    given = [own, *(mirror.rstrip("/") for mirror in mirrors if mirror.rstrip("/") != own)]
    problems += [f"{text.rpartition('@')[2]!r} is not the address of a hub." for text in given if not _is_address(text)]
    if problems:
        raise ConfigError(problems)
    return tuple(
        Source(without_login(text), token if text == own else None, _LOGIN.split(text)[2] or None) for text in given
    )


def without_login(endpoint: str) -> str:
    """Return an address without the name and password that may stand before its host."""
    return _LOGIN.sub(r"\1", endpoint)


def _is_address(endpoint: str) -> bool:
    import httpx

    if not re.fullmatch(r"https?://[^/\s]+(/\S*)?", endpoint):
        return False
    try:
        return bool(httpx.URL(endpoint).host)
    except (httpx.InvalidURL, UnicodeError):
        return False


def hub_cache(environment: Mapping[str, str]) -> Path:
    """Return the folder in which huggingface_hub keeps what other programs fetched."""
    home = environment.get("HF_HOME") or str(Path(environment.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    return Path(environment.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def make_client(*, connect_seconds: float, stall_seconds: float) -> httpx.Client:
    """Make the client; proxies come from the environment, certificates from httpx and from the system.

    The system's are needed in offices whose proxy signs with its own. Raises :class:`~fooocus.errors.ConfigError`
    where the proxy or the certificates of the environment cannot be used.
    """
    import httpx

    try:
        context = httpx.create_ssl_context()
        context.load_default_certs()
    except OSError as error:  # a broken file of certificates is one too
        raise _no_certificates(error) from error
    timeout = httpx.Timeout(stall_seconds, connect=connect_seconds, pool=None)
    try:
        return httpx.Client(verify=context, timeout=timeout, follow_redirects=True, max_redirects=6)
    except httpx.InvalidURL as error:  # its text may quote a piece of the password
        raise ConfigError(["the proxy set in the environment cannot be used: that is no address."]) from error
    except (ImportError, ValueError, httpx.HTTPError) as error:  # a SOCKS proxy, or a scheme that is unknown
        raise ConfigError([f"the proxy set in the environment cannot be used: {error}."]) from error


def _no_certificates(error: OSError) -> ConfigError:
    """Say which variable names certificates that are not there: httpx looks at the file first."""
    reason = error.strerror or str(error)
    name = next((name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)), None)
    if name is None:
        return ConfigError([f"the certificates of this Python cannot be read: {reason}."])
    return ConfigError(
        [
            f"{name} in the environment names {os.environ[name]}, where no certificates can be read ({reason}): "
            "take it out, or let it name some that are there."
        ]
    )


def complete(entry: Entry, tried: Sequence[Source], client: httpx.Client, pins: Path) -> Entry:
    """Fill in the size and hash of an entry that has none: as pinned here before, or as the hub says now.

    Raises a :class:`~fooocus.models.troubles.DownloadError` or :class:`~fooocus.errors.StorageError`.
    """
    if entry.sha256 is not None and entry.size_bytes is not None:
        return entry
    pinned = _read_pins(pins)
    if entry.name not in pinned:
        pinned[entry.name] = _ask(entry, tried[0], client)  # a mirror's word is not enough to check its own bytes by
        _write_pins(pins, pinned)
    told = pinned[entry.name]
    return dataclasses.replace(
        entry,
        size_bytes=told["size_bytes"],
        sha256=told["sha256"],
        note=f"size and SHA-256 as {told['endpoint']} said at the first fetch, pinned since",
    )


def refusal(status: int, source: Source, entry: Entry) -> DownloadError | None:
    """Put a status code into a sentence; None for an answer that is none of refusal."""
    site, address = source.endpoint, source.address(entry)
    match status:
        case 407:
            return _proxy_wants_login()
        case 401 | 403:
            return HubRefuses(
                f"{site} refuses {entry.name} ({status}).",
                "Accept the licence on its page there and set HF_TOKEN to your token, or fetch it in a browser: "
                + by_hand(entry, source),
            )
        case 404 | 410:
            return HubLacksFile(
                f"{site} has no {entry.name} at {address} ({status}).",
                "The file was moved or withdrawn, or a mirror lacks it: try another mirror.",
            )
        case 429:
            return HubBusy(f"{site} wants fewer requests for a while (429).", "Try again later.")
        case _ if status >= 500 or status in (408, 425):
            return HubBusy(f"{site} has trouble of its own ({status}).", "Try again later.")
        case _ if status not in (200, 206):
            return WrongAnswer(f"{site} gave an answer that is not understood ({status}).", by_hand(entry, source))
    return None


def by_hand(entry: Entry, source: Source) -> str:
    """Say how to get a file without this program."""
    return f"open {source.address(entry)} and put the file into the folder of {entry.kind}s."


def _proxy_wants_login() -> HubRefuses:
    return HubRefuses(
        "The proxy on the way to the network wants a login (407).",
        "Put it into the proxy's address in the environment: https_proxy=http://name:password@proxy:port.",
    )


def cannot_ask() -> tuple[type[Exception], ...]:
    """Return what a request may raise; the last when a part of the host's name is longer than names can be."""
    import httpx

    return httpx.HTTPError, httpx.InvalidURL, UnicodeError


def unreachable(error: Exception, source: Source, entry: Entry) -> DownloadError:
    """Put a failed connection into a sentence; what the system said of it is for the log."""
    import httpx

    if isinstance(error, httpx.ProxyError) and str(error).startswith("407"):
        return _proxy_wants_login()
    # What the client refuses to send it quotes, and that may be a token.
    secret = isinstance(error, httpx.LocalProtocolError)
    reason = type(error).__name__ if secret else str(error).strip() or type(error).__name__
    sentence = f"There is no connection to {source.endpoint}."
    if "CERTIFICATE_VERIFY_FAILED" in reason:  # the network is well, and looking at it would find nothing
        sentence = f"There is no secure connection to {source.endpoint}: its certificate is not trusted here."
    return NoConnection(
        sentence, "Check the network and the proxy; or, on another computer, " + by_hand(entry, source), reason[:200]
    )


def _ask(entry: Entry, source: Source, client: httpx.Client) -> dict[str, Any]:
    """Ask for size and hash: the hub's own answer, before it points to where the bytes are, has them."""
    try:
        response = client.head(source.address(entry), headers=source.headers())
    except cannot_ask() as error:
        raise unreachable(error, source, entry) from error
    hops = [*response.history, response]
    sha256 = next((digest for hop in hops if (digest := linked_hash(hop))), None)
    size = next((int(text) for hop in hops if (text := hop.headers.get("X-Linked-Size", "")).isdigit()), None)
    if sha256 and size:
        return {"size_bytes": size, "sha256": sha256, "endpoint": source.endpoint}
    raise refusal(response.status_code, source, entry) or WrongAnswer(
        f"{source.endpoint} does not say the SHA-256 of {entry.name}: it could not be checked and is not fetched.",
        by_hand(entry, source),
    )


def linked_hash(response: httpx.Response) -> str | None:
    """Return the SHA-256 that a hub states for a large file, if it does."""
    digest = response.headers.get("X-Linked-Etag", "").removeprefix("W/").strip('"').lower()
    return digest if re.fullmatch(r"[0-9a-f]{64}", digest) else None


def _read_pins(file: Path) -> dict[str, dict[str, Any]]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        # Not forgotten in silence: a pin is there to notice that the hub's file was exchanged.
        raise StorageError(f"{file} cannot be read: {error}.", "Delete it; the hub is then asked anew.") from error
    if not isinstance(values, dict) or not all(map(_is_pin, values.values())):
        raise StorageError(f"{file} holds something else than pins.", "Delete it; the hub is then asked anew.")
    return values


def _is_pin(value: object) -> bool:
    match value:
        case {"size_bytes": int(size), "sha256": str(digest), "endpoint": str()}:
            return size > 0 and re.fullmatch(r"[0-9a-f]{64}", digest) is not None
    return False


def _write_pins(file: Path, pins: Mapping[str, object]) -> None:
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(pins, indent=2), encoding="utf-8")
        part.replace(file)
    except OSError as error:
        raise StorageError(f"{file} cannot be written: {error.strerror or error}.", "Check the data folder.") from error
