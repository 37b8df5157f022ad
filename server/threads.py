"""How gRPC's threads are scheduled beside the event loop."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def yielding() -> Iterator[None]:
    """Threads that start within the block, and those that they start, don't interrupt one that runs (sched(7), BATCH).

    A call comes to the event loop as some five events, each handed over by a thread of gRPC that wakes for it. On a
    busy processor it would interrupt the loop each time. So it waits until the loop sleeps, which then finds many
    events at once; on an idle one it runs as soon as before. Does nothing where the system knows no such policy, or
    the process has one of its own.
    """
    if not hasattr(os, "SCHED_BATCH") or os.sched_getscheduler(0) != os.SCHED_OTHER:
        yield
        return
    with suppress(OSError):  # a sandbox may forbid it
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        yield
    finally:
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
