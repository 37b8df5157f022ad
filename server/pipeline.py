"""The way of a request: link, retrieve, encode, infer, decide. It knows nothing of gRPC, so it also runs in process."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from groundwire.bundle import Bundle
from groundwire.kg.encode import EncodedPair
from groundwire.kg.types import Evidence, Grounding, Retriever
from groundwire.server.batcher import Batcher
from groundwire.server.config import Limits, Provider
from groundwire.server.convert import add_evidence, add_mentions
from groundwire.server.errors import InferenceError
from groundwire.server.live import Fixed, Lease, Live
from groundwire.server.pace import Pace
from groundwire.server.probes import perturb
from groundwire.server.room import Room
from groundwire.server.runtime import Runtime
from groundwire.server.statistics import Record, Sink, Statistics
from groundwire.server.uncertainty import Judge, Verdict, count_conflicts
from groundwire.server.validate import check_inputs, check_options
from groundwire.v1 import prediction_pb2

# A small request is linked and encoded on the event loop itself: that takes about a millisecond, a way to a thread and
# back would add some 0.1 ms of work, and the interpreter lock lets only one of them run anyway. What is larger, and a
# graph that may answer over the network, goes to a thread, so that no request stalls the others for long.
INLINE_TEXTS, INLINE_CODE_POINTS = 4, 2_000
LIVE_THREADS = 8
# A request that is alone in the process runs on the event loop too, where that takes at most about so long: the way to
# a thread and back adds some 0.2 ms to what its client waits, and who comes meanwhile would wait for the model anyway.
LONE_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class _Prepared:
    """One input, ready for the model: its grounding, the triples read, and its rows.

    `rows` are the input itself; then, if contributions were asked for and there is evidence, one row without any
    evidence and one without each triple of `read`; then one for each of the `probes` perturbed copies.
    """

    grounding: Grounding
    read: tuple[Evidence, ...]
    rows: tuple[EncodedPair, ...]
    contributions: bool
    probes: int


class Pipeline:
    """Answers requests with one bundle and one graph. An async context manager; use it on one event loop.

    Args:
        bundle: an opened bundle.
        graph: a retriever, or one that is replaced while the pipeline runs; the caller closes it.
        limits: bounds on requests, batches and queue.
        provider: execution provider of the model.
        threads: ONNX Runtime's threads; 0: the cores, shared among the instances.
        sink: told of what `statistics` counts.
        alone: whether nobody but the request that is answered now is there; none: that isn't known.

    Raises:
        BundleError: tokenizer or model can't be used.
        ProviderError: the provider asked for is missing.
    """

    def __init__(
        self,
        bundle: Bundle,
        graph: Retriever | Live[Retriever],
        limits: Limits | None = None,
        provider: Provider = "auto",
        threads: int = 0,
        sink: Sink | None = None,
        alone: Callable[[], bool] | None = None,
    ) -> None:
        self.bundle = bundle
        self._graph = graph if isinstance(graph, Live) else Fixed(graph)
        self.limits = limits or Limits()
        self._encoder = bundle.encoder()
        self.runtime = Runtime(bundle, self._encoder.pad_id, provider, threads, self.limits)
        # On a device a run waits, and each thread that runs there takes memory of its own.
        self._alone = alone if self.runtime.provider == "cpu" else None
        self._judge = Judge(bundle.manifest)
        self._batcher: Batcher[Verdict] | None = None
        self.statistics = Statistics(sink, bundle.manifest.name)
        self._preparing = Room(self.limits.queue_rows, "texts are read before they may wait for the model")
        # A live graph makes a thread wait, not work.
        workers = 1 if self._graph.value.info.retriever == "compiled" else LIVE_THREADS
        self._thread = ThreadPoolExecutor(workers, thread_name_prefix=f"encode-{bundle.manifest.name}")

    @property
    def graph_version(self) -> str:
        """Version of the graph that the next request will be answered with."""
        return self._graph.value.info.version

    @property
    def provider(self) -> str:
        """Execution provider that runs the model: "cpu", "cuda" or "tensorrt"."""
        return self.runtime.provider

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        # Not the pipeline itself: no cycle, so that one that is unloaded is gone at once.
        runtime, judge, pace = self.runtime, self._judge, Pace(LONE_SECONDS)

        def work(rows: Sequence[EncodedPair]) -> list[Verdict]:
            started = time.perf_counter()
            outputs = runtime.run(rows)
            if len(rows) == 1:
                pace.saw(len(rows[0].ids), time.perf_counter() - started)
            return judge.verdicts(outputs)

        async def run(rows: Sequence[EncodedPair]) -> list[Verdict]:
            return await loop.run_in_executor(runtime.executor, work, rows)

        def run_now(rows: Sequence[EncodedPair]) -> list[Verdict] | None:
            return work(rows) if pace.is_quick(len(rows[0].ids)) else None

        self._batcher = Batcher(run, self.limits, self.statistics, run_now=run_now, alone=self._alone)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.batcher.close()
        self._thread.shutdown()
        await asyncio.to_thread(self.runtime.close)

    async def predict(
        self,
        inputs: Sequence[prediction_pb2.PredictInput],
        options: prediction_pb2.PredictOptions | None = None,
        deadline: float | None = None,
    ) -> list[prediction_pb2.Prediction]:
        """The predictions of `answer`."""
        return list((await self.answer(inputs, options, deadline)).predictions)

    async def answer(
        self,
        inputs: Sequence[prediction_pb2.PredictInput],
        options: prediction_pb2.PredictOptions | None = None,
        deadline: float | None = None,
    ) -> prediction_pb2.PredictResponse:
        """Predict `inputs`, 1 to the batch limit, in their order, all with one version of the graph.

        `deadline` is in the time of the event loop. What the response says of the model is left to the caller.

        Raises:
            InvalidRequestError: inputs or options break a rule; nothing was run.
            QueueFullError, DeadlineExceededError, ShuttingDownError, InferenceError: as `Batcher.infer`.
            GraphError: the graph could not be asked.
        """
        options = options or prediction_pb2.PredictOptions()
        with self.statistics.request() as record:
            check_inputs(inputs, self.limits)
            check_options(options, self.bundle.manifest.inputs.top_k, self.limits)
            batcher = self.batcher
            batcher.check_room(len(inputs))
            with self._preparing.take(len(inputs)), self._graph.lease() as lease:
                version = lease.value.info.version
                prepared = await self._prepare_all(lease, inputs, options, record)
            record.encode = record.since() - record.ground
            rows = [row for item in prepared for row in item.rows]
            verdicts = await batcher.infer(rows, deadline, record, options.priority)
            inferred = record.since()
            if not all(verdict.finite for verdict in verdicts):
                raise InferenceError(
                    f"the model {self.bundle.manifest.name} gave a probability that is not a number; "
                    "its bundle is at fault"
                )
            response = prediction_pb2.PredictResponse(graph_version=version)
            await self._decide_all(response, inputs, options, prepared, verdicts)
            record.decide = record.since() - inferred
            self.statistics.predicted(response.predictions)
            return response

    async def _prepare_all(
        self,
        lease: Lease[Retriever],
        inputs: Sequence[prediction_pb2.PredictInput],
        options: prediction_pb2.PredictOptions,
        record: Record,
    ) -> list[_Prepared]:
        copies = 1 + options.probes
        small = len(inputs) * copies <= INLINE_TEXTS and not options.contributions
        retriever = lease.value
        inline = retriever.info.retriever == "compiled"
        if inline and small and sum(len(item.text) for item in inputs) * copies <= INLINE_CODE_POINTS:
            return [self._prepare(retriever, item, options, record) for item in inputs]
        return [await lease.run(self._thread, self._prepare, retriever, item, options, record) for item in inputs]

    def _prepare(
        self,
        retriever: Retriever,
        item: prediction_pb2.PredictInput,
        options: prediction_pb2.PredictOptions,
        record: Record,
    ) -> _Prepared:
        """Link, retrieve and encode one input."""
        top_k = options.top_k or self.bundle.manifest.inputs.top_k
        started = time.perf_counter()
        grounding = retriever.ground(item.text, top_k, list(item.entities) or None)
        record.ground += time.perf_counter() - started
        full = self._encoder.encode(item.text, grounding.evidence)
        read = tuple(grounding.evidence[position] for position in full.used)
        rows = [full]
        contributions = options.contributions and bool(read)
        if contributions:
            rows.append(self._encoder.encode(item.text, (), grounding.evidence))
            # Left out of what was read, not of what was found: else a triple that had no room would take its place.
            rows += (
                self._encoder.encode(item.text, read[:i] + read[i + 1 :], grounding.evidence) for i in range(len(read))
            )
        copies: list[str] = []
        if options.probes:
            mentions = retriever.link(item.text) if item.entities else grounding.mentions
            copies = perturb(item.text, mentions, options.probes)
            rows += (self._encoder.encode(copy, read, grounding.evidence) for copy in copies)
        if item.entities:
            grounding = grounding._replace(mentions=())
        return _Prepared(grounding, read, tuple(rows), contributions, len(copies))

    async def _decide_all(
        self,
        response: prediction_pb2.PredictResponse,
        inputs: Sequence[prediction_pb2.PredictInput],
        options: prediction_pb2.PredictOptions,
        prepared: Sequence[_Prepared],
        verdicts: Sequence[Verdict],
    ) -> None:
        """Add a prediction for each input. In place: to copy a message costs about as much as to make it."""
        coverage = self._judge.coverage(options)
        row = 0
        for item, ready in zip(inputs, prepared, strict=True):
            if row:  # long texts may have thousands of mentions: others go on between two of them
                await asyncio.sleep(0)
            prediction = response.predictions.add(id=item.id, text_truncated=ready.rows[0].text_truncated)
            knowledge = prediction.uncertainty.knowledge
            _fill_knowledge(knowledge, item, ready, reads_evidence=self.bundle.manifest.inputs.top_k > 0)
            self._judge.decide(prediction, verdicts[row], coverage, not_in_graph=knowledge.not_in_graph)
            explanation = prediction.uncertainty.explanation
            explanation.evidence_count = len(ready.read)
            explanation.max_relevance = max((triple.relevance for triple in ready.read), default=0.0)
            add_mentions(prediction.mentions, ready.grounding.mentions)
            add_evidence(prediction.evidence, ready.read)
            _compare(prediction, verdicts[row : row + len(ready.rows)], ready)
            row += len(ready.rows)

    @property
    def batcher(self) -> Batcher[Verdict]:
        """The queue of the model, while the pipeline is open."""
        if self._batcher is None:
            raise RuntimeError("enter the pipeline first: async with Pipeline(...) as pipeline")
        return self._batcher


def _fill_knowledge(
    knowledge: prediction_pb2.KnowledgeUncertainty,
    item: prediction_pb2.PredictInput,
    ready: _Prepared,
    *,
    reads_evidence: bool,
) -> None:
    """Fill in cause 3. A model that reads the text alone has no triples to find, so for it only the linking counts."""
    mentions = ready.grounding.mentions
    linked = bool(mentions) or bool(item.entities)
    knowledge.coverage = ready.grounding.coverage
    knowledge.link_confidence = 1.0 if item.entities else sum(m.score for m in mentions) / max(len(mentions), 1)
    knowledge.conflicts = count_conflicts(ready.read)
    knowledge.not_in_graph = not linked or (reads_evidence and not ready.grounding.evidence)


def _compare(prediction: prediction_pb2.Prediction, verdicts: Sequence[Verdict], ready: _Prepared) -> None:
    """Compare the row of the input, the first, with those that left evidence out, and with the perturbed copies."""
    label = verdicts[0].order[0]
    top = verdicts[0].probabilities[label]
    after = 1
    if ready.contributions:
        prediction.uncertainty.explanation.comprehensiveness = top - verdicts[after].probabilities[label]
        for triple, without in zip(prediction.evidence, verdicts[after + 1 : after + 1 + len(ready.read)], strict=True):
            triple.contribution = top - without.probabilities[label]
        after += 1 + len(ready.read)
    if ready.probes:
        sensitivity = prediction.uncertainty.sensitivity
        sensitivity.probes = ready.probes
        sensitivity.flip_rate = sum(copy.order[0] != label for copy in verdicts[after:]) / ready.probes
