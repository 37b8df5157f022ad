"""What a run of the model costs: some seconds whatever it holds, and some for each token, learned from the runs.

On a CPU a token costs most, so a batch had better hold little padding, if it is small. On a GPU a run costs most, so it
had better be large, whatever the padding. A line through the runs that were seen tells the two apart.
"""

# Before any run: 2 ms, and 10,000 tokens a second, as a small encoder takes on one core.
FIRST_OVERHEAD = 2e-3
FIRST_PER_TOKEN = 1e-4
_FIRST_TOKENS = 100.0
# Each run makes those before it count so much; about fifty are remembered.
_KEPT = 0.98
# A machine that was held up for a moment says nothing about the model: no run counts as more than so many times what
# was expected.
_MOST = 2.0
_LEAST_PER_TOKEN = 1e-9


class RunCost:
    """Seconds of a run = `overhead` + `per_token` · tokens, padding included, by least squares.

    Runs count less the older they are. One that never was, of no tokens and `FIRST_OVERHEAD`, always counts: runs of
    one size alone would leave open which share of their time is overhead.
    """

    def __init__(self) -> None:
        self.overhead, self.per_token = FIRST_OVERHEAD, FIRST_PER_TOKEN
        self._sums = _terms(_FIRST_TOKENS, self.seconds(_FIRST_TOKENS))

    def seconds(self, tokens: float, runs: int = 1) -> float:
        """Expected seconds of `runs` runs that hold `tokens` tokens in all."""
        return runs * self.overhead + self.per_token * tokens

    def learn(self, tokens: int, seconds: float) -> None:
        """A run of `tokens` tokens took `seconds`."""
        new = _terms(tokens, min(seconds, _MOST * self.seconds(tokens)))
        self._sums = [_KEPT * old + more for old, more in zip(self._sums, new, strict=True)]
        count, x, y, xx, xy = (one + other for one, other in zip(self._sums, _terms(0.0, FIRST_OVERHEAD), strict=True))
        slope = (count * xy - x * y) / (count * xx - x * x)
        overhead = (y - slope * x) / count
        if overhead < 0:
            slope, overhead = xy / xx, 0.0
        self.per_token, self.overhead = max(slope, _LEAST_PER_TOKEN), overhead


def _terms(tokens: float, seconds: float) -> list[float]:
    return [1.0, tokens, seconds, tokens * tokens, tokens * seconds]
