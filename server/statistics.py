"""What one model has done since it was loaded: requests, rows and runs, and where the time went.

Kept on the event loop, so nothing is locked. Requests of every protocol count alike. The Open Inference Protocol's
ModelStatistics tells of these numbers as they are.
"""

import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from groundwire.server.trace import CURRENT, Call
from groundwire.v1.prediction_pb2 import Prediction


@dataclass(slots=True)
class Duration:
    """How often something was done, and how long it took in all, in seconds."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one more."""
        self.count += 1
        self.seconds += seconds


@dataclass(slots=True, eq=False)
class Record:
    """Where one request's time goes, in seconds.

    `ground` is linking and retrieving; `encode` the rest until the rows are ready; `queue` the wait until the first of
    its rows ran; `infer` the runs that held its rows; `decide` what is left to do then.
    """

    ground: float = 0.0
    encode: float = 0.0
    queue: float = 0.0
    infer: float = 0.0
    decide: float = 0.0
    started: float = field(default_factory=time.perf_counter)
    call: Call | None = None  # that it came with, if that is traced

    def since(self) -> float:
        """Seconds since the request came."""
        return time.perf_counter() - self.started


class Sink(Protocol):
    """Who else wants to know; see `groundwire.server.metrics`."""

    def answered(self, record: Record) -> None:
        """A request was answered."""

    def ran(self, rows: int, tokens: int) -> None:
        """The model ran."""

    def waiting(self, rows: int) -> None:
        """So many rows wait."""

    def predicted(self, prediction: Prediction) -> None:
        """A prediction was made."""


class Statistics:
    """Counts and durations of one model.

    `queue` and the `compute_…` durations count requests that were answered, so all of them have the count of
    `success`. `batches` are the runs, by their number of rows.
    """

    def __init__(self, sink: Sink | None = None, model: str = "") -> None:
        self.sink = sink
        self.model = model  # its name in traces
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

    def request(self) -> "_Request":
        """Time one request: answered when the block ends, failed when it raises. The block fills in the stages."""
        return _Request(self)

    def answered(self, record: Record) -> None:
        """Count a request that was answered."""
        self.compute_input.add(record.ground + record.encode)
        self.queue.add(record.queue)
        self.compute_infer.add(record.infer)
        self.compute_output.add(record.decide)
        self.success.add(record.since())
        if self.sink is not None:
            self.sink.answered(record)
        if record.call is not None:
            record.call.ended(self.model, record)

    def failed(self, record: Record, kind: str) -> None:
        """Count one that was not, with the kind of its error."""
        self.fail.add(record.since())
        if record.call is not None:
            record.call.ended(self.model, record, kind)

    def ran(self, rows: int, tokens: int, seconds: float) -> None:
        """Count one run of the model, of `rows` rows that hold `tokens` tokens without padding."""
        self.batches[rows].add(seconds)
        self.rows += rows
        self.runs += 1
        self.last_run = time.time()
        if self.sink is not None:
            self.sink.ran(rows, tokens)

    def waiting(self, rows: int) -> None:
        """Say how many rows wait for the model."""
        if self.sink is not None:
            self.sink.waiting(rows)

    def predicted(self, predictions: Iterable[Prediction]) -> None:
        """Count what was decided."""
        if self.sink is not None:
            for prediction in predictions:
                self.sink.predicted(prediction)


class _Request:
    """A request that is under way. A class, because a generator costs three times as much."""

    __slots__ = ("_record", "_statistics")

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics
        self._record = Record(call=CURRENT.get())

    def __enter__(self) -> Record:
        return self._record

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._statistics.answered(self._record)
        else:  # a request that was cancelled was not answered either
            self._statistics.failed(self._record, kind.__name__)
