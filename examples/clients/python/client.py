"""Asks a Groundwire server about texts: label, decision, evidence, and how far to trust them.

Run `make` first, which generates the stubs from the contract.
"""

import argparse
import sys
import time
from pathlib import Path

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

sys.path.insert(0, str(Path(__file__).parent / "build"))

from groundwire.v1 import prediction_pb2, prediction_pb2_grpc

DEADLINE = 10.0  # seconds


def main() -> int:
    """Print the answers; 1 when there are none."""
    parser = argparse.ArgumentParser(description="Ask a Groundwire server about texts.")
    parser.add_argument("--target", default="127.0.0.1:50051", help="HOST:PORT of the server")
    parser.add_argument("--ca", type=Path, help="PEM file of the authority of a server with TLS")
    parser.add_argument("--token", help="bearer token of a server that asks for one")
    parser.add_argument("texts", nargs="+", metavar="TEXT")
    given = parser.parse_args()
    with connect(given.target, given.ca) as channel:
        stub = prediction_pb2_grpc.PredictionServiceStub(channel)
        inputs = [prediction_pb2.PredictInput(text=text) for text in given.texts]
        metadata = [("authorization", f"Bearer {given.token}")] if given.token else None
        try:
            answer = ask(stub, prediction_pb2.PredictRequest(inputs=inputs), metadata)
        except grpc.RpcError as error:
            show_error(error)
            return 1
    for text, prediction in zip(given.texts, answer.predictions, strict=True):
        show(text, prediction)
    return 0


def connect(target: str, ca: Path | None) -> grpc.Channel:
    """A channel, with TLS when there is an authority to trust."""
    if ca is None:
        return grpc.insecure_channel(target)
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(ca.read_bytes()))


def ask(
    stub: prediction_pb2_grpc.PredictionServiceStub,
    request: prediction_pb2.PredictRequest,
    metadata: list[tuple[str, str]] | None,
) -> prediction_pb2.PredictResponse:
    """The answer. A server that is busy says when to come back; take it at its word once."""
    try:
        return stub.Predict(request, timeout=DEADLINE, metadata=metadata)
    except grpc.RpcError as error:
        hint = retry_hint(error)
        if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED or hint is None:
            raise
        show_error(error)
        time.sleep(hint)
        return stub.Predict(request, timeout=DEADLINE, metadata=metadata)


def details(error: grpc.RpcError) -> list[Message]:
    """The details of google.rpc that came with an error."""
    status = rpc_status.from_call(error)
    found = []
    for packed in status.details if status else ():
        for kind in (error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
            if packed.Is(kind.DESCRIPTOR):
                found.append(kind.FromString(packed.value))
    return found


def retry_hint(error: grpc.RpcError) -> float | None:
    """Seconds to wait, if the server said."""
    hints = [one.retry_delay for one in details(error) if isinstance(one, error_details_pb2.RetryInfo)]
    return hints[0].ToNanoseconds() / 1e9 if hints else None


def show_error(error: grpc.RpcError) -> None:
    """Print code, message and details to stderr."""
    print(f"{error.code().name}: {error.details()}", file=sys.stderr)
    for one in details(error):
        if isinstance(one, error_details_pb2.BadRequest):
            for violation in one.field_violations:
                print(f"  field {violation.field}: {violation.description}", file=sys.stderr)
        else:
            print(f"  retry after {one.retry_delay.ToNanoseconds() / 1e9:.3f} s", file=sys.stderr)


def show(text: str, prediction: prediction_pb2.Prediction) -> None:
    """Print one prediction with evidence and the four causes of doubt."""
    decision = prediction_pb2.Decision.Name(prediction.decision).removeprefix("DECISION_").lower()
    doubt = prediction.uncertainty
    print(text)
    print(f"  {prediction.label} {prediction.probability:.3f} {decision}")
    for triple in prediction.evidence:
        print(f"  evidence    {triple.relevance:.3f} {triple.text}")
    model, sensitivity, knowledge, explanation = doubt.model, doubt.sensitivity, doubt.knowledge, doubt.explanation
    print(f"  model       agreement {model.agreement:.3f}, mutual information {model.mutual_information:.3f}")
    print(f"  sensitivity margin {sensitivity.margin:.3f}, covered {yes_no(sensitivity.covered)}")
    print(
        f"  knowledge   coverage {knowledge.coverage:.3f}, links {knowledge.link_confidence:.3f}, "
        f"conflicts {knowledge.conflicts}, in the graph {yes_no(not knowledge.not_in_graph)}"
    )
    print(f"  explanation triples {explanation.evidence_count}, relevance up to {explanation.max_relevance:.3f}")


def yes_no(said: bool) -> str:
    """For people."""
    return "yes" if said else "no"


if __name__ == "__main__":
    sys.exit(main())
