"""Where a served bank is, and the key that opens it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from memrecall_kv.errors import ConfigError, InputError

KEY_VARIABLE = "MEMRECALL_API_KEY"
"""Of the environment; holds the key where none is given."""
_BANKS = "/v1/banks/"
_SCHEMES = ("http", "https")


def is_url(given: object) -> bool:
    """Return whether something names a server rather than a directory."""
    return isinstance(given, str) and given.partition("://")[0].lower() in _SCHEMES and "://" in given


@dataclass(frozen=True, slots=True)
class Address:
    """A bank of a server's; the key is not shown.

    Attributes:
        url: Of the server, without a slash at its end.
        bank: The bank's name there.
        key: What opens it; empty for a server without keys.
    """

    url: str
    bank: str
    key: str = field(default="", repr=False)

    @classmethod
    def of(cls, url: str, bank: str | None, key: str | None) -> Self:
        """Return an address.

        Args:
            url: Of the server, or without `bank` that of a bank: `http://localhost:8000/v1/banks/handbook`.
            bank: The bank's name.
            key: `None` for that of the environment.

        Raises:
            InputError: If the URL is none of a server's, or there is no name.
            ConfigError: If the key cannot be sent.
        """
        server, named = _split(url)
        if bank is not None and named is not None and bank != named:
            raise InputError(f"Expected one bank, got {bank!r} and {named!r} in the URL.", "Leave one out.")
        name = bank if bank is not None else named
        if not isinstance(name, str) or not name or "/" in name:
            raise InputError(f"Expected the name of a bank on the server, got {name!r}.", 'Pass bank="handbook".')
        return cls(server, name, _checked(os.environ.get(KEY_VARIABLE, "") if key is None else key))

    @property
    def banks_path(self) -> str:
        """Return the path of the bank on the server."""
        return f"{_BANKS}{quote(self.bank, safe='')}"

    @property
    def bank_url(self) -> str:
        """Return the URL of the bank, by which `of` finds it again."""
        return f"{self.url}{self.banks_path}"


def _split(url: str) -> tuple[str, str | None]:
    """Return a server's URL and the name of a bank, if the URL is that of one."""
    hint = "Write it like http://localhost:8000."
    if not is_url(url):
        raise InputError("Expected a URL that begins with http:// or https://.", hint)
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises for one that is no number
    except ValueError as error:
        raise InputError("Expected a URL with a host and a port, if any, that is a number.", hint) from error
    if parts.username is not None or parts.password is not None:
        # not shown: it holds a password
        raise InputError("Expected a URL without a user, got one with.", f"Pass api_key=, or set {KEY_VARIABLE}.")
    if not parts.hostname or parts.query or parts.fragment:
        raise InputError("Expected a URL of a host and a path at most.", hint)
    path, found, name = parts.path.partition(_BANKS)
    server = urlunsplit((parts.scheme.lower(), parts.netloc, path.rstrip("/").removesuffix("/v1"), "", ""))
    return server, unquote(name.rstrip("/")) if found else None


def _checked(key: object) -> str:
    if not isinstance(key, str):
        raise ConfigError(f"Expected an API key as a text, got {type(key).__name__}.", "Pass the text of the key.")
    key = key.strip()
    if not all("!" <= letter <= "~" for letter in key):
        # not shown: it is, or holds, a secret
        raise ConfigError("Expected an API key of letters, digits and signs, got others.", "Copy it once more.")
    return key
