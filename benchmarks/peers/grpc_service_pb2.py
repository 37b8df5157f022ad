"""Where tritonclient's generated servicer looks for its messages when Ray's proxy imports it by its name."""

from tritonclient.grpc.service_pb2 import *  # noqa: F403
