// Asks a Groundwire server about texts: label, decision, evidence, and how far to trust them.

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "errors.pb.h"
#include "groundwire/v1/prediction.grpc.pb.h"

namespace {

using groundwire::v1::Prediction;
using groundwire::v1::PredictionService;
using groundwire::v1::PredictRequest;
using groundwire::v1::PredictResponse;

constexpr std::chrono::seconds kDeadline{10};

struct Arguments {
  std::string target = "127.0.0.1:50051";
  std::string ca;
  std::string token;
  std::vector<std::string> texts;
};

// The details of google.rpc that came with an error.
struct Details {
  std::vector<google::rpc::BadRequest::FieldViolation> fields;
  std::optional<std::chrono::nanoseconds> retry;
};

Arguments Parse(int count, char** given) {
  Arguments arguments;
  for (int i = 1; i < count; ++i) {
    const std::string argument = given[i];
    const bool more = i + 1 < count;
    if (argument == "--target" && more) {
      arguments.target = given[++i];
    } else if (argument == "--ca" && more) {
      arguments.ca = given[++i];
    } else if (argument == "--token" && more) {
      arguments.token = given[++i];
    } else {
      arguments.texts.push_back(argument);
    }
  }
  return arguments;
}

// TLS when there is an authority to trust.
std::shared_ptr<grpc::ChannelCredentials> Credentials(const std::string& ca) {
  if (ca.empty()) return grpc::InsecureChannelCredentials();
  std::ifstream file(ca, std::ios::binary);
  if (!file) throw std::runtime_error("can't read " + ca);
  grpc::SslCredentialsOptions options;
  options.pem_root_certs.assign(std::istreambuf_iterator<char>(file), {});
  return grpc::SslCredentials(options);
}

Details DetailsOf(const grpc::Status& status) {
  Details found;
  google::rpc::Status sent;
  if (!sent.ParseFromString(status.error_details())) return found;
  for (const auto& packed : sent.details()) {
    google::rpc::BadRequest bad;
    google::rpc::RetryInfo retry;
    if (packed.UnpackTo(&bad)) {
      found.fields.assign(bad.field_violations().begin(), bad.field_violations().end());
    } else if (packed.UnpackTo(&retry)) {
      const auto& delay = retry.retry_delay();
      found.retry = std::chrono::seconds(delay.seconds()) + std::chrono::nanoseconds(delay.nanos());
    }
  }
  return found;
}

const char* CodeName(grpc::StatusCode code) {
  static constexpr const char* kNames[] = {
      "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
      "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
      "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"};
  const auto number = static_cast<std::size_t>(code);
  return number < std::size(kNames) ? kNames[number] : "UNKNOWN";
}

void ShowError(const grpc::Status& status) {
  const Details details = DetailsOf(status);
  std::cerr << CodeName(status.error_code()) << ": " << status.error_message() << '\n';
  for (const auto& violation : details.fields) {
    std::cerr << "  field " << violation.field() << ": " << violation.description() << '\n';
  }
  if (details.retry) {
    std::fprintf(stderr, "  retry after %.3f s\n", std::chrono::duration<double>(*details.retry).count());
  }
}

grpc::Status Predict(PredictionService::Stub& stub, const PredictRequest& request, const std::string& token,
                     PredictResponse* answer) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kDeadline);
  if (!token.empty()) context.AddMetadata("authorization", "Bearer " + token);
  return stub.Predict(&context, request, answer);
}

// Asks. A server that is busy says when to come back; take it at its word once.
grpc::Status Ask(PredictionService::Stub& stub, const PredictRequest& request, const std::string& token,
                 PredictResponse* answer) {
  const grpc::Status status = Predict(stub, request, token, answer);
  const auto hint = DetailsOf(status).retry;
  if (status.error_code() != grpc::StatusCode::RESOURCE_EXHAUSTED || !hint) return status;
  ShowError(status);
  std::this_thread::sleep_for(*hint);
  return Predict(stub, request, token, answer);
}

const char* YesNo(bool said) { return said ? "yes" : "no"; }

void Show(const std::string& text, const Prediction& prediction) {
  std::string decision = groundwire::v1::Decision_Name(prediction.decision()).substr(sizeof("DECISION_") - 1);
  std::transform(decision.begin(), decision.end(), decision.begin(), [](unsigned char c) { return std::tolower(c); });
  std::printf("%s\n  %s %.3f %s\n", text.c_str(), prediction.label().c_str(), prediction.probability(),
              decision.c_str());
  for (const auto& triple : prediction.evidence()) {
    std::printf("  evidence    %.3f %s\n", triple.relevance(), triple.text().c_str());
  }
  const auto& doubt = prediction.uncertainty();
  std::printf("  model       agreement %.3f, mutual information %.3f\n", doubt.model().agreement(),
              doubt.model().mutual_information());
  std::printf("  sensitivity margin %.3f, covered %s\n", doubt.sensitivity().margin(),
              YesNo(doubt.sensitivity().covered()));
  std::printf("  knowledge   coverage %.3f, links %.3f, conflicts %u, in the graph %s\n", doubt.knowledge().coverage(),
              doubt.knowledge().link_confidence(), doubt.knowledge().conflicts(),
              YesNo(!doubt.knowledge().not_in_graph()));
  std::printf("  explanation triples %u, relevance up to %.3f\n", doubt.explanation().evidence_count(),
              doubt.explanation().max_relevance());
}

}  // namespace

int main(int count, char** given) try {
  const Arguments arguments = Parse(count, given);
  if (arguments.texts.empty()) {
    std::cerr << "usage: client [--target HOST:PORT] [--ca FILE] [--token TOKEN] TEXT...\n";
    return 2;
  }
  PredictRequest request;
  for (const auto& text : arguments.texts) request.add_inputs()->set_text(text);
  const auto stub = PredictionService::NewStub(grpc::CreateChannel(arguments.target, Credentials(arguments.ca)));
  PredictResponse answer;
  const grpc::Status status = Ask(*stub, request, arguments.token, &answer);
  if (!status.ok()) {
    ShowError(status);
    return 1;
  }
  for (int i = 0; i < answer.predictions_size(); ++i) Show(arguments.texts[i], answer.predictions(i));
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
