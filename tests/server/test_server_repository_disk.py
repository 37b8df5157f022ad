"""What lies in a repository and can't be served: it spoils no other model, and what is said of it can be sent."""

import io
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from asking import Asker, refused
from repositories import write_version
from serving import until

from groundwire.server.app import BackgroundServer
from groundwire.server.catalog import Catalog
from groundwire.server.config import Limits, RepositoryConfig, ServerConfig
from groundwire.server.errors import ModelLoadError
from groundwire.server.model_control import ModelControl
from groundwire.server.model_opener import Opener
from groundwire.server.peers import PREFIX, Peers
from groundwire.server.repository import Repository
from groundwire.server.status import to_status

NOBODY = 65534


@contextmanager
def without_rights() -> Iterator[None]:
    """Root may read everything, so for a while this thread is somebody else."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_name_that_is_no_unicode_hides_no_other_model(tmp_path: Path) -> None:
    write_version(tmp_path, "adder", 1)
    bad = write_version(tmp_path, "odd", 1)
    (bad / os.fsdecode(b"\xff")).symlink_to("/etc")
    repository = RepositoryConfig(tmp_path, control="explicit", load=("*",))
    config = ServerConfig((), None, "127.0.0.1:0", "cpu", 1, repository=repository)
    with BackgroundServer(config) as server, grpc.insecure_channel(server.address) as channel:
        asker = Asker(channel)
        assert asker.index() == [("adder", "1", "READY"), ("odd", "1", "UNAVAILABLE")]
        assert "\\udcff is a link" in asker.reason("odd")
        with refused("FAILED_PRECONDITION", "\\udcff is a link"):
            asker.load("odd")
        assert asker.add("adder") == (1.0, "1")


def test_a_status_can_be_sent_whatever_its_message() -> None:
    assert to_status(ModelLoadError("m/1/\udcff can't be read")).message == "m/1/? can't be read"


def test_a_folder_that_can_not_be_read_spoils_no_other() -> None:
    with tempfile.TemporaryDirectory() as made:  # unlike those of pytest, one that everybody may enter
        folder = Path(made)
        folder.chmod(0o755)
        write_version(folder, "adder", 1)
        for number, name in enumerate(("closed", "blind"), start=1):
            write_version(folder, name, 1)
            (folder / name).chmod((0o000, 0o444)[number - 1])
        with without_rights():
            found = Repository(folder).scan()
        for name in ("closed", "blind"):
            (folder / name).chmod(0o755)
    assert {name: [bool(one.problem) for one in versions.values()] for name, versions in found.items()} == {
        "adder": [False],
        "closed": [True],
        "blind": [True],
    }
    assert found["closed"][1].problem == "closed can't be read: Permission denied"


async def test_a_bug_in_one_process_tells_clients_of_another_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_version(tmp_path, "adder", 1)
    repository = Repository(tmp_path)
    config = RepositoryConfig(tmp_path, control="explicit")
    async with ModelControl(config, repository, Catalog(), Opener(repository, Limits(), "cpu", 1), 0) as control:

        def fail(_: str) -> None:
            raise RuntimeError(str(tmp_path))

        monkeypatch.setattr(repository, "find", fail)
        out = io.BytesIO()
        peers = Peers(out).attach(control)
        peers.received(json.dumps({"do": 1, "ask": None, "operation": "load", "name": "adder"}))
        await until(lambda: bool(out.getvalue()))
        said = json.loads(out.getvalue().removeprefix(PREFIX))
    assert (said["did"], said["error"]) == (1, "internal error; the server's log has the details")
