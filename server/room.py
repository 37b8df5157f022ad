"""How much may be on its way at once."""

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

    def take(self, count: int) -> "_Place":
        """Let `count` in, to the end of a `with` block.

        Raises:
            QueueFullError: on entering the block: there is no room for them.
        """
        return _Place(self, count)

    def enter(self, count: int) -> None:
        """As `take`, until `leave`."""
        if self.taken and self.taken + count > self.most:
            raise QueueFullError(
                f"{self.taken} {self._what}, and {count} more do not fit; retry in {RETRY_SECONDS:g} s", RETRY_SECONDS
            )
        self.taken += count

    def leave(self, count: int) -> None:
        """So many are no longer inside."""
        self.taken -= count


class _Place:
    """Some of a room. A class, because a generator costs three times as much."""

    __slots__ = ("_count", "_room")

    def __init__(self, room: Room, count: int) -> None:
        self._room, self._count = room, count

    def __enter__(self) -> None:
        self._room.enter(self._count)

    def __exit__(self, *_: object) -> None:
        self._room.leave(self._count)
