"""Which ONNX Runtime execution provider runs a model: the one asked for, or the best one, never a silent fall-back."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from groundwire.server.config import Provider
from groundwire.server.errors import ProviderError

SEVERITY = "GROUNDWIRE_ONNXRUNTIME_SEVERITY"  # environment variable: 0 (verbose) to 4 (fatal)
FATAL = 4
_ORT_NAMES: Mapping[str, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_INSTALL: Mapping[str, str] = {
    "cpu": "pip install 'groundwire[cpu]'",
    "cuda": "pip uninstall onnxruntime && pip install 'groundwire[gpu]', with CUDA and cuDNN on the library path",
    "tensorrt": "pip uninstall onnxruntime && pip install 'groundwire[gpu]' tensorrt, with CUDA on the library path",
}


@dataclass(frozen=True, slots=True)
class Choice:
    """Providers to give to ONNX Runtime, best first; whether the first must be the one that runs; why it was chosen."""

    name: str
    required: bool
    why: str

    @property
    def providers(self) -> list[str]:
        """Names of ONNX Runtime. What TensorRT can't run goes to CUDA, and what that can't to the CPU."""
        chains = {"cpu": ("cpu",), "cuda": ("cuda", "cpu"), "tensorrt": ("tensorrt", "cuda", "cpu")}
        return [_ORT_NAMES[name] for name in chains[self.name]]


def choose_provider(provider: Provider, available: Sequence[str]) -> Choice:
    """Choose among the `available` providers (ONNX Runtime's names).

    `auto` takes CUDA where the build has it, else the CPU. It never takes TensorRT, which compiles for minutes at the
    first start: that has to be asked for.

    Raises:
        ProviderError: `provider` was asked for and the build lacks it; the message says what to install.
    """
    if provider == "auto":
        if _ORT_NAMES["cuda"] in available:
            return Choice("cuda", required=False, why="auto: this ONNX Runtime has CUDA")
        return Choice("cpu", required=True, why="auto: this ONNX Runtime has no CUDA")
    if _ORT_NAMES[provider] not in available:
        raise ProviderError(
            f"the provider {provider} was asked for, but this ONNX Runtime has only {', '.join(available)}. "
            f"Install it: {_INSTALL[provider]}; or start with --provider auto."
        )
    return Choice(provider, required=True, why="asked for")


def session_options(threads: int, instances: int = 1) -> ort.SessionOptions:
    """Options of a session whose runs use `threads` threads; 0: the cores, shared among `instances` runs at once."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or max(1, len(os.sched_getaffinity(0)) // instances)
    options.inter_op_num_threads = 1
    # Idle threads sleep. Spinning would save some 10 µs a run, and take the cores from linking and encoding.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # What goes wrong in a run is raised as well, and its line on stderr would hold values that clients sent. Which
    # library a provider lacks is said all the same: by the logger of the process, not of a session.
    options.log_severity_level = int(os.environ.get(SEVERITY, FATAL))
    return options


def run_session(
    session: ort.InferenceSession, names: Sequence[str], feeds: Mapping[str, NDArray[Any]], *, bound: bool
) -> list[NDArray[Any]]:
    """The outputs `names` for `feeds`, which are all that the model takes; no strings when `bound`.

    On a device inputs and outputs are bound: all are copied on the stream of the run, and waited for once.

    Raises:
        Exception: as `InferenceSession.run`.
    """
    if not bound:
        # `InferenceSession.run` looks again at names that were checked, which takes as long as a tiny model's run.
        inner = getattr(session, "_sess", None)
        given = (list(names), dict(feeds), None)
        found: list[NDArray[Any]] = session.run(*given) if inner is None else inner.run(*given)
        return found
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_cpu_input(name, np.ascontiguousarray(array))
    for name in names:
        binding.bind_output(name)  # in the processor's memory
    session.run_with_iobinding(binding)
    outputs: list[NDArray[Any]] = binding.copy_outputs_to_cpu()
    return outputs


def open_session(
    model: bytes | str, options: ort.SessionOptions, provider: Provider
) -> tuple[ort.InferenceSession, str, str]:
    """Open a session on `provider`; `model` is its content, or the path of its file.

    Returns the session, the provider that really runs it, and why that one.

    Raises:
        ProviderError: the provider was asked for and can't run the model here.
        Exception: ONNX Runtime can't read the model; its exceptions share no other root.
    """
    choice = choose_provider(provider, ort.get_available_providers())
    reason = "no device, or a library is missing; ONNX Runtime's own message on stderr says which"
    try:
        session = ort.InferenceSession(model, options, providers=choice.providers)
    except Exception as error:
        if choice.name == "cpu":
            raise
        reason = str(error)
    else:
        # ONNX Runtime drops a provider that fails to start without an error, so ask it what it kept.
        if _ORT_NAMES[choice.name] in session.get_providers():
            return session, choice.name, choice.why
    if choice.required:
        raise ProviderError(
            f"the provider {choice.name} was asked for and could not be started: {reason}. "
            f"Install it: {_INSTALL[choice.name]}; or start with --provider auto."
        )
    session = ort.InferenceSession(model, options, providers=[_ORT_NAMES["cpu"]])
    return session, "cpu", f"auto: {choice.name} could not be started ({reason})"
