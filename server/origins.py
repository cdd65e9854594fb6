"""Which pages and which names a server answers to.

A page that is open in a browser can send requests to any address its browser reaches, a server on the same machine
included. Browsers tell where such a request comes from (``Origin``) and what name was asked for (``Host``); a name
that an attacker leads to this machine (DNS rebinding) stands in the second. Clients that are no browsers send no
``Origin`` and are not held up.
"""

import ipaddress
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

ANY = "*"
OPAQUE = "null"
"""What a browser says in place of an origin that it will not tell: a file, a sandboxed frame."""
_NETLOC = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::\d*)?")


def usable_origin(text: str) -> str:
    """An origin as browsers send it. Errors: ValueError for what can be none."""
    origin = text.strip().lower().removesuffix("/")
    if origin in (ANY, OPAQUE):
        return origin
    parts = urlsplit(origin)
    if not parts.scheme or not parts.netloc or origin != f"{parts.scheme}://{parts.netloc}":
        raise ValueError(f"{text!r} is no origin; give a scheme and a host, as https://app.example, or * for any page")
    return origin


def usable_host(text: str) -> str:
    """A host's name without brackets. Errors: ValueError for what can be none."""
    host = text.strip().lower()
    if host == ANY:
        return host
    if re.fullmatch(r"[^:/\s]+", host) is None and not _is_address(host.strip("[]")):
        raise ValueError(f"{text!r} is no host name; give the name alone, as cos.example, or * for any name")
    return host.strip("[]").rstrip(".")


def name_of(netloc: str) -> str:
    """The name in a ``Host`` header or an address, without port and brackets; empty where there is none."""
    found = _NETLOC.fullmatch(netloc.strip().lower())
    return found[1].strip("[]").rstrip(".") if found else ""


def is_loopback(name: str) -> bool:
    """Whether a name means the machine itself, whoever asks."""
    return name == "localhost" or (_is_address(name) and ipaddress.ip_address(name).is_loopback)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Hosts:
    """The names a server answers to."""

    def __init__(self, listening: str, allowed: Sequence[str]) -> None:
        """``listening``: the address it listens on. ``allowed``: further names, or "*"."""
        own = listening.lower().strip("[]")
        self._names = {own, *allowed}
        self._is_open = _is_address(own) and ipaddress.ip_address(own).is_unspecified

    def answer_to(self, name: str) -> bool:
        """Whether a request for this name is meant for the server.

        A server that listens on every address does not know its names. It answers to every address and to every name
        without a dot (a container's, a machine's), as nobody can own such a name and lead it here.
        """
        if ANY in self._names or name in self._names or is_loopback(name):
            return True
        return self._is_open and name != "" and ("." not in name or _is_address(name))


class Origins:
    """The pages a server answers to."""

    def __init__(self, allowed: Sequence[str]) -> None:
        """``allowed``: origins beside those of this machine, or "*"."""
        self._allowed = frozenset(allowed)

    def answer_to(self, origin: str, host: str) -> bool:
        """Whether a page of this origin may ask. ``host``: the request's own ``Host``; its own pages may."""
        origin = origin.strip().lower()
        if ANY in self._allowed or origin in self._allowed:
            return True
        try:
            parts = urlsplit(origin) if origin.startswith(("http://", "https://")) else None
        except ValueError:
            # Brackets that hold no address.
            return False
        return parts is not None and (parts.netloc == host.strip().lower() or is_loopback(name_of(parts.netloc)))
