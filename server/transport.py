"""What carries gRPC: grpcio, or pygrpc-native, an extra."""

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc

from groundwire.server.config import Carrier, ServerConfig
from groundwire.server.errors import ConfigurationError
from groundwire.server.interceptor import Handler, Interceptor

if TYPE_CHECKING:
    from groundwire.server.native import NativeServer


class Methods(grpc.GenericRpcHandler):
    """Handlers by `/package.Service/Method`, in one table: gRPC asks one generic handler after the other, each call."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """The handler of the method that is called, or none."""
        return self._handlers.get(handler_call_details.method)


class Choice(NamedTuple):
    """What carries gRPC, and why."""

    name: Carrier
    why: str


def choose_transport(config: ServerConfig) -> Choice:
    """The transport that is asked for; of `auto` the faster one, where it is installed and can do what is asked.

    Raises:
        ConfigurationError: pygrpc-native is asked for and can't be loaded.
    """
    if config.transport == "grpcio":
        return Choice("grpcio", "asked for")
    if config.beyond_native:  # only of `auto`: else the configuration was refused
        return Choice("grpcio", f"auto: pygrpc-native can't do {' and '.join(config.beyond_native)}")
    try:
        importlib.import_module("groundwire.server.native")  # which finds out whether this version has what it needs
    except ImportError as error:
        if config.transport == "auto":
            return Choice("grpcio", f"auto: pygrpc-native can't be loaded ({error})")
        raise ConfigurationError(
            f"--transport native needs pygrpc-native, which can't be loaded ({error}): "
            "pip install 'groundwire[native]', or leave --transport away."
        ) from error
    return Choice("native", "asked for" if config.transport == "native" else "auto: pygrpc-native is installed")


def open_transport(
    choice: Choice, config: ServerConfig, methods: Mapping[str, Handler], interceptors: Sequence[Interceptor]
) -> "grpc.aio.Server | NativeServer":
    """A server of `methods`, by `/package.Service/Method`, that does not listen yet."""
    options: list[tuple[str, Any]] = [
        ("grpc.enable_channelz", int(config.channelz)),
        ("grpc.max_receive_message_length", config.limits.message_bytes),
        ("grpc.so_reuseport", int(config.reuse_port)),
    ]
    if choice.name == "grpcio":
        server = grpc.aio.server(interceptors=interceptors, options=options)
        server.add_generic_rpc_handlers((Methods(methods),))
        return server
    from groundwire.server.native import NativeServer  # noqa: PLC0415 - an extra

    native = NativeServer(
        methods,
        interceptors,
        longest=config.limits.message_bytes,
        reuse_port=config.reuse_port,
        options=options,
    )
    native.add_generic_rpc_handlers((Methods(methods),))
    return native
