"""TLS with certificates that are read again when their files change, so that a renewal needs no restart."""

import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import cast

import grpc

from groundwire.server.config import Security
from groundwire.server.errors import ConfigurationError

_log = logging.getLogger("groundwire.server")

Signature = tuple[tuple[int, int, int], ...]


class Certificates:
    """The server's certificate and key, and the authority of its clients, if they need certificates too.

    Raises:
        ConfigurationError: a file is missing or damaged, or the key is not that of the certificate.
    """

    def __init__(self, security: Security) -> None:
        if security.tls_cert is None or security.tls_key is None:
            raise ConfigurationError("TLS needs both --tls-cert and --tls-key.")
        self._refused: Signature | str | None = None  # what can't be used is said once, and not at each connection
        self._cert, self._key, self._client_ca = security.tls_cert, security.tls_key, security.tls_client_ca
        try:
            self._signature, self._current = self._read()
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"can't use {', '.join(str(file) for file in self._files())} for TLS: {_reason(error)}. They must be "
                "PEM, and the key that of the certificate."
            ) from error

    def credentials(self) -> grpc.ServerCredentials:
        """For `add_secure_port`. gRPC asks for the certificate at each new connection; those that are open stay."""
        # The fetcher may return none, though grpc's types do not say so.
        fetch = cast(Callable[[], grpc.ServerCertificateConfiguration], self.fetch)
        return grpc.dynamic_ssl_server_credentials(
            self._current, fetch, require_client_authentication=self._client_ca is not None
        )

    def fetch(self) -> "grpc.ServerCertificateConfiguration | None":
        """The new certificate, or none when the files are as they were. One that can't be used changes nothing."""
        found: Signature | str | None = None
        try:
            found = self._sign()
            if found == self._signature:
                self._refused = None
                return None
            signature, current = self._read()
        except (OSError, ssl.SSLError) as error:
            reason = _reason(error)
            refused, self._refused = self._refused, found or reason
            # Certificate and key are two files: between the writing of both, they do not match.
            if self._refused != refused:
                _log.error("certificate can't be used; the old one stays", extra={"fields": {"error": reason}})
            return None
        self._signature, self._current, self._refused = signature, current, None
        _log.info("certificate read again", extra={"fields": {"file": str(self._cert)}})
        return current

    def _files(self) -> list[Path]:
        return [file for file in (self._cert, self._key, self._client_ca) if file is not None]

    def _sign(self) -> Signature:
        statuses = [file.stat() for file in self._files()]
        return tuple((status.st_mtime_ns, status.st_size, status.st_ino) for status in statuses)

    def _read(self) -> tuple[Signature, "grpc.ServerCertificateConfiguration"]:
        """Read and check all files. The signature is taken first, so that a later change is seen later."""
        signature = self._sign()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # Else a key with a passphrase would ask for it on the terminal.
        context.load_cert_chain(self._cert, self._key, password=lambda: b"")
        if self._client_ca is not None:
            context.load_verify_locations(self._client_ca)
        return signature, grpc.ssl_server_certificate_configuration(
            [(self._key.read_bytes(), self._cert.read_bytes())],
            None if self._client_ca is None else self._client_ca.read_bytes(),
        )


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or getattr(error, "reason", None) or type(error).__name__
