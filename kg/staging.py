"""Where a folder is built: beside its place, out of sight, by one process at a time.

The lock is an advisory one (flock) on a file that lies there as long as the build runs. The kernel releases it when the
process ends, however it ends, so what a crash leaves behind is taken over, and cleared away, by the next build.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from groundwire.errors import GroundwireError


@contextmanager
def sole_build(out: Path, error: type[GroundwireError]) -> Iterator[None]:
    """Be the one build into the folder `out` until the block ends.

    Raises `error` when another one runs, or nothing can be written there.
    """
    if not out.name:
        raise error(f"{out} has no name that a folder could be put in place under; choose another folder")
    path = out.with_name(f".{out.name}.lock")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock = _lock(path)
    except BlockingIOError as cause:
        raise error(f"another build into {out} is running; wait until it ends, or choose another folder") from cause
    except OSError as cause:
        raise _unwritable(out, error, cause) from cause
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(lock)


@contextmanager
def staging_folder(out: Path, error: type[GroundwireError]) -> Iterator[Path]:
    """An empty folder beside `out` to build in; it is gone when the block ends, unless it was moved.

    Raises `error` as `sole_build`.
    """
    with sole_build(out, error):
        folder = out.with_name(f".{out.name}.partial")
        try:
            shutil.rmtree(folder, ignore_errors=True)
            try:
                folder.mkdir()
            except OSError as cause:
                raise _unwritable(out, error, cause) from cause
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _unwritable(out: Path, error: type[GroundwireError], cause: OSError) -> GroundwireError:
    return error(f"can't write beside {out}: {cause.strerror}; choose another folder")


def _lock(path: Path) -> int:
    """A descriptor of the locked file; raises `BlockingIOError` when another one has the lock."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The build that had it may have removed the file in between: then another may lie there, and be locked.
            if path.exists() and os.path.samestat(os.fstat(lock), path.stat()):
                return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
