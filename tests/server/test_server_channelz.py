"""channelz: gRPC's own view of the connections, when the server was asked to give it."""

import dataclasses

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from serving import TEXTS

from groundwire.server.app import BackgroundServer
from groundwire.server.client import Client
from groundwire.server.config import ServerConfig


def test_it_counts_the_calls_of_this_server(config: ServerConfig) -> None:
    with BackgroundServer(dataclasses.replace(config, channelz=True)) as server:
        with Client(server.address) as client:
            client.predict(TEXTS)
        with grpc.insecure_channel(server.address) as channel:
            found = channelz_pb2_grpc.ChannelzStub(channel).GetServers(channelz_pb2.GetServersRequest(), timeout=10)
    assert max(one.data.calls_succeeded for one in found.server) >= 1


def test_it_is_off_by_default(config: ServerConfig) -> None:
    with BackgroundServer(config) as server, grpc.insecure_channel(server.address) as channel:
        stub = channelz_pb2_grpc.ChannelzStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.GetServers(channelz_pb2.GetServersRequest(), timeout=10)
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
