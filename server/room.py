"""How much may be on its way at once."""

from collections.abc import Iterator
from contextlib import contextmanager

from groundwire.server.errors import QueueFullError

RETRY_SECONDS = 1.0


class Room:
    """Counts what was let in, at most `most`, or one lot that is greater when nothing else is there.

    For one event loop. `what` is what a refusal says of those inside, such as "texts wait for the graph".
    """

    def __init__(self, most: int, what: str) -> None:
        self.most = most
        self.taken = 0
        self._what = what

    @contextmanager
    def take(self, count: int) -> Iterator[None]:
        """Let `count` in, to the end of the block.

        Raises:
            QueueFullError: there is no room for them.
        """
        if self.taken and self.taken + count > self.most:
            raise QueueFullError(
                f"{self.taken} {self._what}, and {count} more do not fit; retry in {RETRY_SECONDS:g} s", RETRY_SECONDS
            )
        self.taken += count
        try:
            yield
        finally:
            self.taken -= count
