import com.google.protobuf.Any;
import com.google.protobuf.Duration;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.RetryInfo;
import groundwire.v1.Knowledge.Evidence;
import groundwire.v1.PredictionOuterClass.ExplanationUncertainty;
import groundwire.v1.PredictionOuterClass.KnowledgeUncertainty;
import groundwire.v1.PredictionOuterClass.ModelUncertainty;
import groundwire.v1.PredictionOuterClass.PredictInput;
import groundwire.v1.PredictionOuterClass.PredictRequest;
import groundwire.v1.PredictionOuterClass.PredictResponse;
import groundwire.v1.PredictionOuterClass.Prediction;
import groundwire.v1.PredictionOuterClass.SensitivityUncertainty;
import groundwire.v1.PredictionServiceGrpc;
import groundwire.v1.PredictionServiceGrpc.PredictionServiceBlockingStub;
import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.MetadataUtils;
import java.io.File;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Optional;
import java.util.concurrent.TimeUnit;

/** Asks a Groundwire server about texts: label, decision, evidence, and how far to trust them. */
public final class GroundwireClient {
  private static final long DEADLINE_SECONDS = 10;
  private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);
  private static final PrintStream ERR = new PrintStream(System.err, true, StandardCharsets.UTF_8);

  private GroundwireClient() {}

  public static void main(String[] arguments) throws IOException, InterruptedException {
    String target = "127.0.0.1:50051";
    String ca = "";
    String token = "";
    List<String> texts = new ArrayList<>();
    for (int i = 0; i < arguments.length; i++) {
      boolean more = i + 1 < arguments.length;
      if (arguments[i].equals("--target") && more) {
        target = arguments[++i];
      } else if (arguments[i].equals("--ca") && more) {
        ca = arguments[++i];
      } else if (arguments[i].equals("--token") && more) {
        token = arguments[++i];
      } else {
        texts.add(arguments[i]);
      }
    }
    if (texts.isEmpty()) {
      ERR.println("usage: client [--target HOST:PORT] [--ca FILE] [--token TOKEN] TEXT...");
      System.exit(2);
    }
    ManagedChannel channel = Grpc.newChannelBuilder(target, credentials(ca)).build();
    int code = 0;
    try {
      PredictRequest.Builder request = PredictRequest.newBuilder();
      texts.forEach(text -> request.addInputs(PredictInput.newBuilder().setText(text)));
      PredictResponse answer = ask(stub(channel, token), request.build());
      for (int i = 0; i < texts.size(); i++) {
        show(texts.get(i), answer.getPredictions(i));
      }
    } catch (StatusRuntimeException error) {
      showError(error);
      code = 1;
    } finally {
      channel.shutdownNow().awaitTermination(5, TimeUnit.SECONDS);
    }
    System.exit(code);
  }

  /** TLS when there is an authority to trust. */
  private static ChannelCredentials credentials(String ca) throws IOException {
    return ca.isEmpty()
        ? InsecureChannelCredentials.create()
        : TlsChannelCredentials.newBuilder().trustManager(new File(ca)).build();
  }

  private static PredictionServiceBlockingStub stub(ManagedChannel channel, String token) {
    Metadata headers = new Metadata();
    if (!token.isEmpty()) {
      headers.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + token);
    }
    return PredictionServiceGrpc.newBlockingStub(channel)
        .withInterceptors(MetadataUtils.newAttachHeadersInterceptor(headers));
  }

  /** The answer. A server that is busy says when to come back; take it at its word once. */
  private static PredictResponse ask(PredictionServiceBlockingStub stub, PredictRequest request)
      throws InterruptedException {
    try {
      return predict(stub, request);
    } catch (StatusRuntimeException error) {
      Optional<Duration> hint = detail(error, RetryInfo.class).map(RetryInfo::getRetryDelay);
      if (error.getStatus().getCode() != Status.Code.RESOURCE_EXHAUSTED || hint.isEmpty()) {
        throw error;
      }
      showError(error);
      TimeUnit.NANOSECONDS.sleep(TimeUnit.SECONDS.toNanos(hint.get().getSeconds()) + hint.get().getNanos());
      return predict(stub, request);
    }
  }

  private static PredictResponse predict(PredictionServiceBlockingStub stub, PredictRequest request) {
    return stub.withDeadlineAfter(DEADLINE_SECONDS, TimeUnit.SECONDS).predict(request);
  }

  /** The detail of google.rpc of one kind that came with an error, if there is one. */
  private static <T extends com.google.protobuf.Message> Optional<T> detail(
      StatusRuntimeException error, Class<T> kind) {
    for (Any packed : StatusProto.fromThrowable(error).getDetailsList()) {
      if (packed.is(kind)) {
        try {
          return Optional.of(packed.unpack(kind));
        } catch (InvalidProtocolBufferException broken) {
          throw new IllegalStateException("the server sent a detail that can't be read", broken);
        }
      }
    }
    return Optional.empty();
  }

  private static void showError(StatusRuntimeException error) {
    ERR.println(error.getStatus().getCode() + ": " + error.getStatus().getDescription());
    detail(error, BadRequest.class).ifPresent(bad -> bad.getFieldViolationsList().forEach(
        violation -> ERR.println("  field " + violation.getField() + ": " + violation.getDescription())));
    detail(error, RetryInfo.class).map(RetryInfo::getRetryDelay).ifPresent(
        delay -> ERR.println("  retry after " + three(delay.getSeconds() + delay.getNanos() / 1e9) + " s"));
  }

  private static void show(String text, Prediction prediction) {
    ModelUncertainty model = prediction.getUncertainty().getModel();
    SensitivityUncertainty sensitivity = prediction.getUncertainty().getSensitivity();
    KnowledgeUncertainty knowledge = prediction.getUncertainty().getKnowledge();
    ExplanationUncertainty explanation = prediction.getUncertainty().getExplanation();
    String decision = prediction.getDecision().name().replace("DECISION_", "").toLowerCase(Locale.ROOT);
    OUT.println(text);
    OUT.println("  " + prediction.getLabel() + " " + three(prediction.getProbability()) + " " + decision);
    for (Evidence triple : prediction.getEvidenceList()) {
      OUT.println("  evidence    " + three(triple.getRelevance()) + " " + triple.getText());
    }
    OUT.println("  model       agreement " + three(model.getAgreement())
        + ", mutual information " + three(model.getMutualInformation()));
    OUT.println("  sensitivity margin " + three(sensitivity.getMargin())
        + ", covered " + yesNo(sensitivity.getCovered()));
    OUT.println("  knowledge   coverage " + three(knowledge.getCoverage())
        + ", links " + three(knowledge.getLinkConfidence()) + ", conflicts " + knowledge.getConflicts()
        + ", in the graph " + yesNo(!knowledge.getNotInGraph()));
    OUT.println("  explanation triples " + explanation.getEvidenceCount()
        + ", relevance up to " + three(explanation.getMaxRelevance()));
  }

  private static String three(double number) {
    return String.format(Locale.ROOT, "%.3f", number);
  }

  private static String yesNo(boolean said) {
    return said ? "yes" : "no";
  }
}
