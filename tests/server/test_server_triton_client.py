"""NVIDIA's client against the server, unmodified, in a process of its own.

Its messages have the full names of ours, and one process can hold only one definition of a name.
"""

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest
from serving import TEXTS

from groundwire.bundle import Bundle
from groundwire.inference import model_config_pb2, service_pb2
from groundwire.server.app import BackgroundServer
from groundwire.server.client import Client

pytestmark = pytest.mark.skipif(find_spec("tritonclient") is None, reason="needs tritonclient[grpc]")

ASK = """
import json, queue, sys
import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

address, texts = sys.argv[1], json.loads(sys.argv[2])
client = triton.InferenceServerClient(address)

def tensor(texts):
    given = triton.InferInput("text", [len(texts), 1], "BYTES")
    given.set_data_from_numpy(np.array([[text.encode()] for text in texts], dtype=object))
    return given

def attempt(call):
    try:
        call()
    except InferenceServerException as error:
        return [error.status(), error.message()]

outputs = [triton.InferRequestedOutput(name) for name in ("label", "probabilities")]
result = client.infer("tiny", [tensor(texts)], outputs=outputs, request_id="42", parameters={"unknown": 1})
answers = queue.Queue()
client.start_stream(lambda result, error: answers.put((result, error)))
for number, text in enumerate(texts):
    client.async_stream_infer("tiny", [tensor([text])], request_id=str(number))
client.async_stream_infer("tiny", [tensor([" "])])
streamed = [answers.get(timeout=60) for _ in texts]
failed = answers.get(timeout=60)[1]
client.stop_stream()
large = ["x " * 4000] * 64 * 10
print(json.dumps({
    "live": client.is_server_live(), "ready": client.is_server_ready(),
    "model": client.is_model_ready("tiny"), "other": client.is_model_ready("other"),
    "server": client.get_server_metadata(as_json=True),
    "metadata": client.get_model_metadata("tiny", as_json=True),
    "config": client.get_model_config("tiny", as_json=True),
    "statistics": client.get_inference_statistics("tiny", as_json=True),
    "index": client.get_model_repository_index(as_json=True),
    "trace": client.get_trace_settings(as_json=True), "log": client.get_log_settings(as_json=True),
    "labels": result.as_numpy("label").ravel().astype(str).tolist(),
    "probabilities": result.as_numpy("probabilities").tolist(),
    "names": [output.name for output in result.get_response().outputs], "id": result.get_response().id,
    "streamed": [[answer.get_response().id, answer.as_numpy("label")[0, 0].decode()] for answer, _ in streamed],
    "failed": failed.message(),
    "load": attempt(lambda: client.load_model("tiny")),
    "shared": attempt(client.get_cuda_shared_memory_status),
    "large": attempt(lambda: client.infer("tiny", [tensor(large)])),
}))
"""

# Every message, field and number, for the comparison with ours.
DESCRIBE = """
import json
from tritonclient.grpc import model_config_pb2, service_pb2

def describe(message):
    yield from ([message.full_name, f.name, f.number, f.type, f.is_repeated] for f in message.fields)
    for nested in message.nested_types:
        yield from describe(nested)

files = (service_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR)
fields = [line for file in files for message in file.message_types_by_name.values() for line in describe(message)]
methods = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
print(json.dumps({
    "fields": fields,
    "values": [[e.full_name, v.name, v.number] for e in model_config_pb2.DESCRIPTOR.enum_types_by_name.values()
               for v in e.values],
    "methods": [[m.name, m.input_type.full_name, m.output_type.full_name, m.client_streaming, m.server_streaming]
                for m in methods],
}))
"""


def run(program: str, *arguments: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_tritonclient_works_unmodified(server: BackgroundServer, client: Client, tiny: Bundle) -> None:
    said = run(ASK, server.address, json.dumps(TEXTS))
    expected = client.predict(TEXTS).predictions
    assert (said["live"], said["ready"], said["model"], said["other"]) == (True, True, True, False)
    assert said["labels"] == [prediction.label for prediction in expected]
    for row, prediction in zip(said["probabilities"], expected, strict=True):
        assert row == pytest.approx([score.probability for score in prediction.scores], abs=1e-6)
    assert (said["names"], said["id"]) == (["label", "probabilities"], "42")
    assert said["streamed"] == [[str(number), label] for number, label in enumerate(said["labels"])]
    assert "is blank" in said["failed"]
    assert said["metadata"]["versions"] == [tiny.manifest.version]
    assert said["metadata"]["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": ["-1", "1"]}]
    assert said["config"]["config"]["max_batch_size"] == 64
    assert json.loads(said["config"]["config"]["parameters"]["labels"]["string_value"]) == list(tiny.manifest.labels)
    [statistics] = said["statistics"]["model_stats"]
    assert int(statistics["inference_stats"]["success"]["count"]) >= 1 + len(TEXTS)
    assert said["index"]["models"] == [{"name": "tiny", "version": tiny.manifest.version, "state": "READY"}]
    assert said["trace"]["settings"]["trace_level"]["value"] == ["OFF"]
    assert said["load"][0] == "StatusCode.UNAVAILABLE"
    assert said["shared"][0] == "StatusCode.UNIMPLEMENTED"
    # 5 MB arrive, over gRPC's default of 4, and are refused for what they hold.
    assert said["large"][0] == "StatusCode.INVALID_ARGUMENT"
    assert "more than 64 rows" in said["large"][1]


def test_our_messages_are_those_of_the_protocol() -> None:
    theirs = run(DESCRIBE)
    fields = {tuple(line) for line in theirs["fields"]}

    def describe(message) -> set[tuple]:
        own = {(message.full_name, f.name, f.number, f.type, f.is_repeated) for f in message.fields}
        return own.union(*(describe(nested) for nested in message.nested_types))

    for file, whole in ((service_pb2.DESCRIPTOR, True), (model_config_pb2.DESCRIPTOR, False)):
        for message in file.message_types_by_name.values():
            ours = describe(message)
            assert ours <= fields, ours - fields
            if whole:
                prefix = message.full_name
                expected = {f for f in fields if f[0] == prefix or f[0].startswith(f"{prefix}.")}
                assert ours == expected, expected - ours
    values = {
        (e.full_name, v.name, v.number)
        for e in model_config_pb2.DESCRIPTOR.enum_types_by_name.values()
        for v in e.values
    }
    assert values == {tuple(line) for line in theirs["values"]}
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    methods = {
        (m.name, m.input_type.full_name, m.output_type.full_name, m.client_streaming, m.server_streaming)
        for m in service.methods
    }
    assert methods == {tuple(line) for line in theirs["methods"]}
