"""What a server is started with: models, graph, address, limits."""

import dataclasses
import ipaddress
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from groundwire.kg.endpoint import is_endpoint
from groundwire.kg.source import LiveOptions
from groundwire.server.errors import ConfigurationError

Provider = Literal["auto", "cpu", "cuda", "tensorrt"]
PROVIDERS: tuple[str, ...] = get_args(Provider)
Carrier = Literal["grpcio", "native"]
CARRIERS: tuple[str, ...] = get_args(Carrier)
Transport = Literal["auto"] | Carrier
TRANSPORTS = ("auto", *CARRIERS)
ModelControlMode = Literal["none", "poll", "explicit"]
MODEL_CONTROLS: tuple[str, ...] = get_args(ModelControlMode)
MAX_TOP_K = 256
MAX_PROBES = 32
MAX_ENTITIES = 64
MAX_ID = 1024  # code points of the name that a client gives a request or an input
MAX_PRIORITY_LEVELS = 64
MAX_INSTANCES = 256
MAX_MESSAGE_BYTES = (1 << 31) - 1  # gRPC's own bound
RELOAD_SECONDS = 5.0
DEFAULT_TOP_K = 16  # of KnowledgeService.Ground


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request, one stream and one model's queue may take.

    `text_length` is in Unicode code points, `message_bytes` in bytes of one protobuf message. `batch_rows` and
    `batch_tokens` bound one run of the model: rows, and rows times the tokens of the longest. `queue_rows` may wait
    for a model at once, and of plain tensors `queue_bytes`. An idle model waits at most `batch_delay` seconds for more
    rows; 0: it runs at once. Requests have one of `priority_levels` priorities. What warms a model up may take
    `warm_up_seconds`; 0: nothing does. `drain_seconds` is how long a shutdown waits for what is in flight. Of a model
    `instances` batches run at once.
    """

    text_length: int = 10_000
    inputs: int = 64
    message_bytes: int = 8 * 1024 * 1024
    stream_in_flight: int = 64
    batch_rows: int = 64
    batch_tokens: int = 8_192
    queue_rows: int = 4_096
    queue_bytes: int = 256 * 1024 * 1024
    drain_seconds: float = 30.0
    batch_delay: float = 0.0
    priority_levels: int = 1
    warm_up_seconds: float = 2.0
    instances: int = 1

    def __post_init__(self) -> None:
        for limit in dataclasses.fields(self):
            value = getattr(self, limit.name)
            _check_finite(limit.name, value)
            if limit.name in {"batch_delay", "warm_up_seconds"}:
                if value < 0:
                    raise ConfigurationError(f"{limit.name} must not be below 0")
            elif value <= 0:
                raise ConfigurationError(f"{limit.name} must be above 0")
        if self.message_bytes > MAX_MESSAGE_BYTES:
            raise ConfigurationError(f"message_bytes must be at most {MAX_MESSAGE_BYTES}")
        if self.priority_levels > MAX_PRIORITY_LEVELS:
            raise ConfigurationError(f"priority_levels must be at most {MAX_PRIORITY_LEVELS}")
        if self.instances > MAX_INSTANCES:
            raise ConfigurationError(f"instances must be at most {MAX_INSTANCES}")


@dataclass(frozen=True, slots=True)
class QueryLimits:
    """What one SPARQL query may take, and how many are evaluated at once.

    `seconds` include the wait for a free worker. `rows` are solutions or triples of an answer, `answer_bytes` its size
    as protobuf; the default stays below the 4 MiB that gRPC clients take by default. `length` is in code points,
    `nesting` in brackets. `workers` are processes, of `memory_bytes` each, that evaluate; at most `waiting` queries
    wait for one.
    """

    seconds: float = 10.0
    rows: int = 10_000
    answer_bytes: int = 4_000_000
    length: int = 16_384
    nesting: int = 64
    workers: int = 2
    waiting: int = 32
    memory_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        for limit in dataclasses.fields(self):
            value = getattr(self, limit.name)
            _check_finite(f"{limit.name} of queries", value)
            if value <= 0:
                raise ConfigurationError(f"{limit.name} of queries must be above 0")
            if value >= 1 << 62:
                raise ConfigurationError(f"{limit.name} of queries must be below 2^62")


@dataclass(frozen=True, slots=True)
class Security:
    """Who may call, and how the wire is protected. Without any of it: everybody, in the clear, as fast as they like.

    `tls_cert` and `tls_key` are PEM files, given both or neither; with `tls_client_ca`, clients need a certificate of
    one of the authorities in that file. `token_file` holds bearer tokens, one a line. `rate` is how many calls a second
    one client may send to one process, 0 for any number; so many may come at once.
    """

    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    token_file: Path | None = None
    rate: float = 0.0

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigurationError("TLS needs both --tls-cert and --tls-key.")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ConfigurationError("--tls-client-ca needs --tls-cert and --tls-key.")
        _check_finite("rate", self.rate)
        if self.rate < 0:
            raise ConfigurationError("rate must not be below 0")


@dataclass(frozen=True, slots=True)
class RepositoryConfig:
    """A model repository: `folder` holds NAME/VERSION/model.onnx, or a bundle in place of the file.

    The latest `versions` of each model answer. `control` is Triton's model control mode: with "none" all models are
    loaded at the start and stay; with "poll" they follow the folder; with "explicit" clients load and unload them, and
    those of `load` ("*": all) but for those of `without` are loaded at the start.
    """

    folder: Path
    versions: int = 1
    control: ModelControlMode = "none"
    load: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.versions < 1:
            raise ConfigurationError("--model-versions must be above 0.")
        if self.load and self.control != "explicit":
            raise ConfigurationError("--load-model needs --model-control explicit; else all models are loaded.")


@dataclass(frozen=True, slots=True)
class TracingConfig:
    """Where traces go: `endpoint` is the URL of an OpenTelemetry collector (OTLP over gRPC), https for TLS.

    `ratio` is the share of calls that are traced, 0 to 1. A caller that sends a trace context has decided for its own.
    """

    endpoint: str
    ratio: float = 1.0

    def __post_init__(self) -> None:
        try:
            url = urlsplit(self.endpoint)
            usable = url.scheme in {"http", "https"} and bool(url.hostname) and (url.port or 1) > 0
        except ValueError:  # a port that is no number, or brackets that do not match
            usable = False
        if not usable or url.path.strip("/") or url.query or url.username is not None:
            raise ConfigurationError(
                "--otlp-endpoint takes http://HOST:PORT or https://HOST:PORT, such as http://127.0.0.1:4317; headers "
                "that the collector asks for go into the environment variable OTEL_EXPORTER_OTLP_HEADERS."
            )
        if not 0 <= self.ratio <= 1:
            raise ConfigurationError("--trace-ratio must lie between 0 and 1.")


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Settings of one server process.

    `bundles` are folders of bundles, `graph` is a compiled graph, an RDF file or, as a string, the URL of a SPARQL
    endpoint, which is asked as `live` says; a server without bundles can do without. `models` are names and ONNX files,
    or folders that hold `model.onnx`. `listen` is `HOST:PORT`; port 0 takes a free one. `threads` are ONNX Runtime's
    per model, 0 for all cores, shared among its instances. `reuse_port` lets several processes share the port; alone, a
    server refuses a port that is in use. `metrics` is the `HOST:PORT` that Prometheus asks, or empty for none; of
    several processes, the supervisor has that port. `query_store` is a folder made by `groundwire kg store`, or none:
    then queries are refused. Graph and store, and a `repository` that is polled, are looked at every `reload_seconds`
    and replaced when they changed; with 0, only when the process gets SIGHUP. With `channelz` gRPC tells of its
    connections (grpc.channelz.v1), clients' addresses included. `tracing` says where traces go; none: nowhere.
    `transport` is what carries gRPC: "grpcio"; "native", which is pygrpc-native, faster and without TLS, channelz and
    rate limits; or "auto", which is native where that is installed and nothing is asked that it can't do.
    """

    bundles: tuple[Path, ...]
    graph: Path | str | None
    listen: str = "127.0.0.1:50051"
    provider: Provider = "auto"
    threads: int = 0
    reuse_port: bool = False
    metrics: str = ""
    models: tuple[tuple[str, Path], ...] = ()
    security: Security = field(default_factory=Security)
    limits: Limits = field(default_factory=Limits)
    live: LiveOptions = field(default_factory=LiveOptions)
    query_store: Path | None = None
    query: QueryLimits = field(default_factory=QueryLimits)
    reload_seconds: float = RELOAD_SECONDS
    channelz: bool = False
    repository: RepositoryConfig | None = None
    tracing: TracingConfig | None = None
    transport: Transport = "auto"

    def __post_init__(self) -> None:
        _check_finite("reload_seconds", self.reload_seconds)
        if self.transport == "native" and self.beyond_native:
            raise ConfigurationError(
                f"--transport native can't do {' and '.join(self.beyond_native)}: leave that away, or the transport. "
                "What is in front of the server, a proxy or a mesh, may encrypt and limit rates."
            )

    @property
    def beyond_native(self) -> list[str]:
        """Options that are given and that pygrpc-native can't do."""
        given = {
            "--tls-cert": self.security.tls_cert is not None,
            "--rate": self.security.rate > 0,  # it does not tell who sends a stream
            "--channelz": self.channelz,
        }
        return [option for option, asked in given.items() if asked]

    def to_json(self) -> str:
        """One line that `from_json` reads back, to hand to a worker process."""
        return json.dumps(dataclasses.asdict(self), default=str)

    @staticmethod
    def from_json(line: str) -> "ServerConfig":
        """Read what `to_json` wrote."""
        fields = json.loads(line)
        fields["bundles"] = tuple(Path(bundle) for bundle in fields["bundles"])
        if fields["graph"] is not None and not is_endpoint(fields["graph"]):
            fields["graph"] = Path(fields["graph"])
        fields["live"] = LiveOptions(**fields["live"])
        fields["query_store"] = None if fields["query_store"] is None else Path(fields["query_store"])
        fields["query"] = QueryLimits(**fields["query"])
        fields["models"] = tuple((name, Path(path)) for name, path in fields["models"])
        fields["limits"] = Limits(**fields["limits"])
        security: dict[str, Any] = fields["security"]
        files = {name: Path(value) for name, value in security.items() if isinstance(value, str)}
        fields["security"] = Security(**security | files)
        if fields["repository"] is not None:
            repository: dict[str, Any] = fields["repository"]
            tuples = {name: tuple(repository[name]) for name in ("load", "without")}
            fields["repository"] = RepositoryConfig(**repository | tuples | {"folder": Path(repository["folder"])})
        if fields["tracing"] is not None:
            fields["tracing"] = TracingConfig(**fields["tracing"])
        return ServerConfig(**fields)


def _check_finite(name: str, value: float) -> None:
    """Refuse what is no number, and what has no end: comparisons let the first through, clocks take neither."""
    if not math.isfinite(value):
        raise ConfigurationError(f"{name} must be a finite number")


def split_address(listen: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT` or `[IPV6]:PORT`.

    Raises:
        ConfigurationError: `listen` is not of this form, or the port is not 0 to 65535.
    """
    host, colon, port = listen.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65_536):
        raise ConfigurationError(f"{listen!r} is no address: give HOST:PORT, such as 127.0.0.1:50051 or [::1]:50051.")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host; a name other than localhost counts as not."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
