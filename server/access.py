"""Who may call, and how often: bearer tokens from a file, and a rate limit for each client."""

import asyncio
import hashlib
import hmac
import ipaddress
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from groundwire.server.errors import ConfigurationError, RateLimitedError, ServerError, UnauthenticatedError
from groundwire.server.interceptor import Context, Handler, Interceptor, Many, One, around
from groundwire.server.status import abort

# Probes of an orchestrator carry no token.
OPEN_SERVICE = "/grpc.health.v1.Health/"
MIN_TOKEN = 16  # characters; less could be guessed
RECHECK_SECONDS = 1.0
MAX_CLIENTS = 65_536

_log = logging.getLogger("groundwire.server")


class Tokens:
    """The tokens in a file, one a line, so that an old and a new one can both be good for a while; after # a comment.

    The file is looked at again at most once a second. An empty one lets nobody in; while it can't be read, the tokens
    that were in it stay good.

    Raises:
        ConfigurationError: the file can't be read, holds no token, or one that is too short.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen: tuple[int, int, int] | None = None
        self._digests: list[bytes] = []
        self._checked = 0.0
        try:
            self._read()
        except OSError as error:
            raise ConfigurationError(f"{file} can't be read ({error.strerror}); give --token-file a file.") from error
        if not self._digests:
            raise ConfigurationError(
                f"{file} holds no token of {MIN_TOKEN} characters or more. Make one: openssl rand -hex 32 > {file}"
            )

    def check(self, header: str) -> None:
        """Check the value of `authorization`.

        Raises:
            UnauthenticatedError: it is not `Bearer` and one of the tokens.
        """
        now = time.monotonic()
        if now - self._checked > RECHECK_SECONDS:
            self._checked = now
            try:
                self._read()
            except OSError as error:
                _log.error("token file can't be read", extra={"fields": {"error": error.strerror}})
        scheme, _, token = header.partition(" ")
        given = _digest(token.strip())
        # Digests are of one length and all are compared, so the time tells nothing of the tokens.
        good = [hmac.compare_digest(given, digest) for digest in self._digests]
        if scheme.lower() != "bearer" or not any(good):
            raise UnauthenticatedError("send the metadata authorization: Bearer TOKEN, with a token of this server")

    def _read(self) -> None:
        status = self._file.stat()
        seen = (status.st_mtime_ns, status.st_size, status.st_ino)
        if seen == self._seen:
            return
        lines = [line.strip() for line in self._file.read_text("utf-8", "replace").splitlines()]
        lines = [line for line in lines if line and not line.startswith("#")]
        short = sum(len(line) < MIN_TOKEN for line in lines)
        if short:
            _log.error("tokens too short are ignored", extra={"fields": {"tokens": short, "least": MIN_TOKEN}})
        self._digests = [_digest(line) for line in lines if len(line) >= MIN_TOKEN]
        if self._seen is not None:
            _log.info("tokens read again", extra={"fields": {"tokens": len(self._digests)}})
        self._seen = seen


class RateLimit:
    """A token bucket for each client: `rate` messages a second, and as many at once, at least one."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._burst = max(rate, 1.0)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # what was left, and when

    def take(self, client: str) -> float:
        """Take one. Returns 0 if there was one, else the seconds until there is, and takes none."""
        now = time.monotonic()
        left, then = self._buckets.pop(client, (self._burst, now))
        left = min(self._burst, left + (now - then) * self.rate)
        wait = 0.0 if left >= 1.0 else (1.0 - left) / self.rate
        self._buckets[client] = (left if wait else left - 1.0, now)
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return wait


class Access(Interceptor):
    """Refuses calls without a token, and those that come too fast. Messages of a stream are slowed, not refused."""

    def __init__(self, tokens: Tokens | None, limit: RateLimit | None) -> None:
        super().__init__()
        self._tokens = tokens
        self._limit = limit

    def wrap(self, path: str, handler: Handler) -> Handler:
        """The handler behind the checks, unless it is one of health."""
        if path.startswith(OPEN_SERVICE):
            return handler

        def one(inner: One) -> One:
            async def handle(request: Any, context: Context) -> Any:
                await self._check(context)
                return await inner(self._paced(request, context) if handler.request_streaming else request, context)

            return handle

        def many(inner: Many) -> Many:
            async def handle(request: Any, context: Context) -> AsyncIterator[Any]:
                await self._check(context)
                content = self._paced(request, context) if handler.request_streaming else request
                async for response in inner(content, context):
                    yield response

            return handle

        return around(handler, one, many)

    async def _check(self, context: Context) -> None:
        try:
            if self._tokens is not None:
                metadata = dict(context.invocation_metadata() or ())
                self._tokens.check(str(metadata.get("authorization", "")))
            if self._limit is not None and (wait := self._limit.take(client_of(context))):
                raise RateLimitedError(
                    f"this client sends more than {self._limit.rate:g} calls a second; retry in {wait:.2f} s", wait
                )
        except ServerError as error:
            await abort(context, error)

    async def _paced(self, messages: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        client = client_of(context)
        async for message in messages:
            # Only time fills the bucket, so there is no event to wait for.
            while self._limit is not None and (wait := self._limit.take(client)):  # noqa: ASYNC110
                await asyncio.sleep(wait)
            yield message


def client_of(context: Context) -> str:
    """Who calls: the name in the client's certificate, which was verified, or else the address it comes from."""
    identities = context.peer_identities()
    if identities:
        return f"certificate {b' '.join(sorted(identities)).decode('utf-8', 'replace')}"
    return _address(context.peer())


@lru_cache(maxsize=4096)
def _address(peer: str) -> str:
    """`ipv4:1.2.3.4:5` without the port; of IPv6 the network of 64 bits, which is one customer's."""
    kind, _, rest = peer.replace("%5B", "[").replace("%5D", "]").partition(":")
    host = rest.rpartition(":")[0].strip("[]")
    if kind != "ipv6":
        return host
    return str(ipaddress.ip_network(f"{host.partition('%')[0]}/64", strict=False))


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
