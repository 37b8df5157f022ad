"""Whether a model may run on the event loop itself: learned from its own runs, and unlearned at once.

To hand a run to a thread and to hear of its end costs more than a tiny model takes, and delays other calls as much. So
what has proved to be quicker than that is run where it is asked for. What takes longer is, when nobody else is there.
"""

QUICK_SECONDS = 100e-6  # of the processor, so that other processes do not make a model look slow
TRUST_AFTER = 32  # credits; a quick run earns one
MOST = 256
PRICE = 8  # credits for each so many seconds of a run that was not quick


class Pace:
    """Keeps credits by the size of the inputs, each power of two for itself.

    Models differ in how their time grows with their inputs, and it may hang on the values. A slow run costs credits by
    its length, so one that the machine interrupted is forgiven and a long one is not; and no greater size is trusted
    more than one that was slow. Written from the model's thread and from the event loop: a credit that is lost between
    the two does no harm.

    Args:
        quick: seconds below which a run is quick.
    """

    def __init__(self, quick: float = QUICK_SECONDS) -> None:
        self._quick = quick
        self._credits = [0.0] * 65

    def is_quick(self, size: int) -> bool:
        """Whether inputs of `size` may be expected to run quickly."""
        return self._credits[size.bit_length()] >= TRUST_AFTER

    def saw(self, size: int, seconds: float) -> None:
        """Learn that inputs of `size` took so many seconds."""
        at = size.bit_length()
        left = self._credits
        if seconds < self._quick:
            left[at] = min(left[at] + 1, MOST)
            return
        left[at] -= PRICE * seconds / self._quick
        for greater in range(at + 1, len(left)):
            left[greater] = min(left[greater], left[at])
