"""Warm-up: the first run of a shape costs more than the next ones, and that is paid before a model answers.

ONNX Runtime plans memory and, on a GPU, picks kernels when a shape comes for the first time. The shapes that batching
produces are too many to run all; those run here reach up to the limits, in steps that share most of that work.
"""

import time
from collections.abc import Callable, Iterable

from groundwire.server.config import Limits

# A batch has 1, 4, 16, … rows, of a quarter, half and all of the longest row's tokens.
_ROW_STEP = 4
_TOKEN_SHARES = (4, 2, 1)


def row_counts(most: int) -> list[int]:
    """1, 4, 16, … below `most`, and `most`."""
    counts = []
    rows = 1
    while rows < most:
        counts.append(rows)
        rows *= _ROW_STEP
    return [*counts, most]


def batch_shapes(limits: Limits, longest: int) -> list[tuple[int, int]]:
    """Rows and tokens of batches of rows of up to `longest` tokens, the smallest first."""
    lengths = {min(max(longest // share, 1), limits.batch_tokens) for share in _TOKEN_SHARES}
    shapes = {
        (rows, tokens)
        for tokens in lengths
        for rows in row_counts(max(1, min(limits.batch_rows, limits.batch_tokens // tokens)))
    }
    return sorted(shapes, key=lambda shape: (shape[0] * shape[1], shape))


def warm_up(run: Callable[[int, int], object], shapes: Iterable[tuple[int, int]], seconds: float) -> int:
    """Run `shapes`, rows and tokens, the smallest first, for about `seconds` at most. Returns how many were run.

    A run can't be interrupted, so one is not begun when, at the best speed so far, it would not end in time; the first
    is always run. Raises what `run` raises.
    """
    end = time.perf_counter() + seconds
    best = 0.0  # tokens a second
    done = 0
    for rows, tokens in shapes:
        started = time.perf_counter()
        if done and started + rows * tokens / best > end:
            break
        run(rows, tokens)
        best = max(best, rows * tokens / max(time.perf_counter() - started, 1e-6))
        done += 1
    return done
