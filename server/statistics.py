"""What one model has done since it was loaded: requests, rows and runs, and where the time went.

Kept on the event loop, so nothing is locked. Requests of every protocol count alike. The Open Inference Protocol's
ModelStatistics tells of these numbers as they are.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Duration:
    """How often something was done, and how long it took in all, in nanoseconds."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        """Count one more."""
        self.count += 1
        self.ns += round(seconds * 1e9)


@dataclass(slots=True, eq=False)
class Record:
    """Where one request's time goes, in seconds.

    `prepare` is linking, retrieving and encoding; `queue` the wait until the first of its rows ran; `infer` the runs
    that held its rows; `decide` the rest.
    """

    prepare: float = 0.0
    queue: float = 0.0
    infer: float = 0.0
    decide: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def since(self) -> float:
        """Seconds since the request came."""
        return time.perf_counter() - self.started


class Statistics:
    """Counts and durations of one model.

    `queue` and the `compute_…` durations count requests that were answered, so all of them have the count of
    `success`. `batches` are the runs, by their number of rows.
    """

    def __init__(self) -> None:
        self.success = Duration()
        self.fail = Duration()
        self.queue = Duration()
        self.compute_input = Duration()
        self.compute_infer = Duration()
        self.compute_output = Duration()
        self.batches: defaultdict[int, Duration] = defaultdict(Duration)
        self.rows = 0
        self.runs = 0
        self.last_run = 0.0  # seconds since 1970

    @contextmanager
    def request(self) -> Iterator[Record]:
        """Time one request: answered when the block ends, failed when it raises. The block fills in the stages."""
        record = Record()
        try:
            yield record
        except BaseException:  # a request that was cancelled was not answered either
            self.fail.add(record.since())
            raise
        self.compute_input.add(record.prepare)
        self.queue.add(record.queue)
        self.compute_infer.add(record.infer)
        self.compute_output.add(record.decide)
        self.success.add(record.since())

    def ran(self, rows: int, tokens: int, seconds: float) -> None:
        """Count one run of the model, of `rows` rows that hold `tokens` tokens without padding."""
        self.batches[rows].add(seconds)
        self.rows += rows
        self.runs += 1
        self.last_run = time.time()
