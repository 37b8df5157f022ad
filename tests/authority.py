"""A certificate authority for tests, made with the openssl command."""

import subprocess
from pathlib import Path


class Authority:
    """A certificate authority in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.ca = folder / "ca.pem"
        self._openssl("req", "-x509", *self._key("ca"), "-subj", "/CN=Test authority", "-days", "2", "-out", self.ca)

    def issue(self, name: str) -> tuple[Path, Path]:
        """A certificate for 127.0.0.1 and its key; another one each time."""
        certificate, request = self.folder / f"{name}.pem", self.folder / f"{name}.csr"
        self._openssl(
            *("req", *self._key(name), "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-out", request),
        )
        self._openssl(
            *("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self.folder / "ca.key", "-CAcreateserial"),
            *("-days", "2", "-copy_extensions", "copy", "-out", certificate),
        )
        return certificate, self.folder / f"{name}.key"

    def _key(self, name: str) -> tuple[object, ...]:
        return (
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            self.folder / f"{name}.key",
        )

    def _openssl(self, *arguments: object) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)
