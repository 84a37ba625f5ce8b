"""Requests to a server, and what is done about those that fail: a busy server is asked again, a bounded time.

Nothing is sent twice whose first try may have been carried out: only a refusal (429, 503) is followed by another try.
No redirect is followed, so that the key goes to the host that was named and nowhere else.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from memrecall_kv.errors import MemRecallError, MissingDependencyError, RemoteError, ServerUnreachableError
from memrecall_kv.remote.address import Address
from memrecall_kv.remote.refusal import BUSY, problem_in, refusal

if TYPE_CHECKING:
    import httpx

_TRIES = 5
_FIRST_WAIT = 0.5
_LONGEST_WAIT = 30.0
"""Seconds between two tries; a server that asks for more is not asked again."""
_CONNECT_SECONDS = 10.0
_JSON = "application/json"
_STREAM = "text/event-stream"


def httpx_of_extra() -> Any:
    """Return httpx.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    try:
        import httpx
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "Asking a server needs httpx, which is not installed.", 'pip install "memrecall-kv[remote]"'
        ) from error
    return httpx


class Connection:
    """Requests to one server.

    Args:
        address: Of the bank there; its key goes with every request.
        timeout: Seconds to wait for the next sign of the server's.
    """

    def __init__(self, address: Address, timeout: float) -> None:
        self._httpx, self._address = httpx_of_extra(), address
        self._options = _options(self._httpx, address, timeout)
        self._sync: httpx.Client | None = None
        self._lock = threading.Lock()
        self._async: tuple[asyncio.AbstractEventLoop, httpx.AsyncClient] | None = None

    def fetch(self, method: str, path: str, **sent: Any) -> bytes:
        """Return the body of an answer in JSON.

        Raises:
            MemRecallError: If there is none; see `refusal`.
        """
        with self._answer(method, path, _JSON, sent) as response:
            return response.read()  # type: ignore[no-any-return]  # httpx is imported when it is needed

    def lines(self, method: str, path: str, **sent: Any) -> Generator[str, None, None]:
        """Yield the lines of a stream; raises like `fetch`."""
        with self._answer(method, path, _STREAM, sent) as response:
            yield from response.iter_lines()

    async def afetch(self, method: str, path: str, **sent: Any) -> bytes:
        """Return what `fetch` does, without blocking the loop."""
        async with self._aanswer(method, path, _JSON, sent) as response:
            return await response.aread()  # type: ignore[no-any-return]  # as above

    async def alines(self, method: str, path: str, **sent: Any) -> AsyncGenerator[str, None]:
        """Yield what `lines` does, without blocking the loop."""
        async with self._aanswer(method, path, _STREAM, sent) as response:
            async for line in response.aiter_lines():
                yield line

    def close(self) -> None:
        """Close the connections that were opened outside of an event loop."""
        with self._lock:
            if self._sync is not None:
                self._sync.close()
                self._sync = None

    async def aclose(self) -> None:
        """Close all connections; those of another event loop are left to it."""
        self.close()
        made, self._async = self._async, None
        if made is not None and made[0] is asyncio.get_running_loop():
            await made[1].aclose()

    @contextmanager
    def _answer(self, method: str, path: str, kind: str, sent: Mapping[str, Any]) -> Iterator[Any]:
        with self._lock:
            if self._sync is None:
                self._sync = self._httpx.Client(**self._options)
            client = self._sync
        for tried in range(1, _TRIES + 1):
            with self._explained(), client.stream(method, path, **sent) as response:
                if response.status_code == _expected(method, path):
                    self._check_kind(response, kind)
                    yield response
                    return
                failed, wait = self._refused(response, response.read(), method, tried)
            if wait is None:
                raise failed
            time.sleep(wait)

    @asynccontextmanager
    async def _aanswer(self, method: str, path: str, kind: str, sent: Mapping[str, Any]) -> AsyncIterator[Any]:
        loop = asyncio.get_running_loop()
        if self._async is None or self._async[0] is not loop:
            self._async = loop, self._httpx.AsyncClient(**self._options)
        client = self._async[1]
        for tried in range(1, _TRIES + 1):
            with self._explained():
                async with client.stream(method, path, **sent) as response:
                    if response.status_code == _expected(method, path):
                        self._check_kind(response, kind)
                        yield response
                        return
                    failed, wait = self._refused(response, await response.aread(), method, tried)
            if wait is None:
                raise failed
            await asyncio.sleep(wait)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn errors of httpx into ours."""
        url, httpx = self._address.url, self._httpx
        try:
            yield
        except httpx.TimeoutException as error:
            raise ServerUnreachableError(
                f"Expected a sign of {url} in time, got none ({type(error).__name__}).",
                "Give it more time with timeout=. An addition may be sent again: what the bank holds is skipped.",
            ) from error
        except httpx.TransportError as error:
            raise _broken(url, error) from error
        except httpx.HTTPError as error:
            raise RemoteError(
                f"Expected an answer that can be read from {url}, got: {error}.", "Check what stands between."
            ) from error

    def _check_kind(self, response: Any, kind: str) -> None:
        got = response.headers.get("content-type", "nothing").partition(";")[0].strip()
        if got != kind:
            raise RemoteError(
                f"Expected {kind} from {self._address.url}, got {got}.",
                "Check the URL, and what stands between: this is no memrecall-kv server's answer.",
                response.status_code,
            )

    def _refused(self, response: Any, body: bytes, method: str, tried: int) -> tuple[MemRecallError, float | None]:
        """Return the error, and the seconds after which to try again; `None` for never."""
        status = response.status_code
        problem = problem_in(response.headers.get("content-type", ""), body)
        asked = _seconds(response.headers.get("retry-after"))
        if response.is_redirect:
            place = urlsplit(response.headers.get("location", ""))
            return RemoteError(
                f"Expected an answer of {self._address.url}, got a redirect to {place.scheme}://{place.hostname}.",
                "Pass that URL, if you trust it with the key.",
                status,
            ), None
        failed = refusal(status, problem, wait=asked, shown=self._address.url)
        # somebody else's 503 may come after the work was done, and only a deletion is no good twice
        may_repeat = status in BUSY and (problem is not None or method != "DELETE")
        wait = _FIRST_WAIT * 2 ** (tried - 1) if asked is None else asked
        return failed, wait if may_repeat and tried < _TRIES and wait <= _LONGEST_WAIT else None


def _options(httpx: Any, address: Address, timeout: float) -> dict[str, Any]:
    headers = {"Accept": f"{_JSON}, {_STREAM}"}
    if address.key:
        headers["Authorization"] = f"Bearer {address.key}"
    return {
        "base_url": address.url,
        "headers": headers,
        "timeout": httpx.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS)),
        "follow_redirects": False,
    }


def _expected(method: str, path: str) -> int:
    """Return the status of what went well: changes of a bank are taken on, all else is done."""
    is_change = method == "DELETE" or (method == "POST" and "/banks/" in path)
    return 202 if is_change else 200


def _broken(url: str, error: Exception) -> ServerUnreachableError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return ServerUnreachableError(
                f"Expected a connection to {url} that can be trusted, got: {error}.",
                "Check the host's name and certificate; SSL_CERT_FILE names further authorities.",
            )
        cause = cause.__cause__ or cause.__context__
    return ServerUnreachableError(
        f"Expected a server at {url}, got: {str(error) or type(error).__name__}.",
        "Check the URL and that it runs. An addition may be sent again: what the bank holds is skipped.",
    )


def _seconds(given: str | None) -> float | None:
    """Return what `Retry-After` says, if that is a number."""
    return float(given) if given is not None and given.strip().isdecimal() and len(given) < 10 else None
