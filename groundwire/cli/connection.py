"""The options by which a command reaches a server: TLS, a client's certificate, a token."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from groundwire.errors import GroundwireError

if TYPE_CHECKING:  # commands that reach no server do without gRPC
    import grpc

_FILE = click.Path(path_type=Path)


class ConnectionOptionsError(GroundwireError):
    """A file that a connection needs can't be read, or holds nothing."""


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach a server.

    `tls` encrypts, and trusts the system's authorities, or those in `ca`; `certificate` and `key` go together, for
    servers that want to know their clients. `token_file` holds a bearer token in its first line.
    """

    tls: bool = False
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    token_file: Path | None = None

    def arguments(self) -> dict[str, Any]:
        """What `Client` and `AsyncClient` take.

        Raises:
            ConnectionOptionsError: a file can't be read, or the token's is empty.
        """
        return {"credentials": self._credentials(), "token": self._token()}

    def _credentials(self) -> "grpc.ChannelCredentials | None":
        if not (self.tls or self.ca or self.certificate):
            return None
        import grpc

        ca, key, certificate = (
            _read(file) if file is not None else None for file in (self.ca, self.key, self.certificate)
        )
        return grpc.ssl_channel_credentials(ca, key, certificate)

    def _token(self) -> str:
        if self.token_file is None:
            return ""
        lines = _read(self.token_file).decode("utf-8", "replace").split()
        if not lines:
            raise ConnectionOptionsError(f"{self.token_file} holds no token: put one in its first line.")
        return lines[0]


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConnectionOptionsError(f"{file} can't be read ({error.strerror}): check the path.") from error


def connection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command, which gets them as `connection`."""

    @functools.wraps(command)
    def connected(*args: Any, tls: bool, tls_ca: Path | None, client_cert: Path | None, client_key: Path | None,
                  token_file: Path | None, **kwargs: Any) -> Any:  # fmt: skip
        if (client_cert is None) != (client_key is None):
            raise click.UsageError("--client-cert and --client-key go together")
        connection = Connection(tls, tls_ca, client_cert, client_key, token_file)
        return command(*args, connection=connection, **kwargs)

    options = (
        click.option("--tls", is_flag=True, help="Encrypt, and trust the authorities of this system."),
        click.option("--tls-ca", type=_FILE, help="Encrypt, and trust the authorities in this PEM file."),
        click.option("--client-cert", type=_FILE, help="This client's certificate, PEM, for mutual TLS."),
        click.option("--client-key", type=_FILE, help="Its key, PEM."),
        click.option("--token-file", type=_FILE, help="A file with the bearer token that the server asks for."),
    )
    for option in reversed(options):
        connected = option(connected)
    return connected
