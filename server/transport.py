"""What carries gRPC: grpcio, or pygrpc-native, an extra."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import grpc

from groundwire.server.config import ServerConfig
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


def open_transport(
    config: ServerConfig, methods: Mapping[str, Handler], interceptors: Sequence[Interceptor]
) -> "grpc.aio.Server | NativeServer":
    """A server of `methods`, by `/package.Service/Method`, that does not listen yet.

    Raises:
        ConfigurationError: pygrpc-native is asked for and not installed.
    """
    options: list[tuple[str, Any]] = [
        ("grpc.enable_channelz", int(config.channelz)),
        ("grpc.max_receive_message_length", config.limits.message_bytes),
        ("grpc.so_reuseport", int(config.reuse_port)),
    ]
    if config.transport == "grpcio":
        server = grpc.aio.server(interceptors=interceptors, options=options)
        server.add_generic_rpc_handlers((Methods(methods),))
        return server
    try:
        from groundwire.server.native import NativeServer  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        if error.name != "pygrpc_native":
            raise
        raise ConfigurationError(
            "--transport native needs pygrpc-native: pip install 'groundwire[native]', or leave --transport away."
        ) from error
    native = NativeServer(
        methods,
        interceptors,
        longest=config.limits.message_bytes,
        reuse_port=config.reuse_port,
        options=options,
    )
    native.add_generic_rpc_handlers((Methods(methods),))
    return native
