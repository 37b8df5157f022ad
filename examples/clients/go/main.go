// Asks a Groundwire server about texts: label, decision, evidence, and how far to trust them.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "example.org/groundwire/v1"
)

const deadline = 10 * time.Second

func main() {
	target := flag.String("target", "127.0.0.1:50051", "`HOST:PORT` of the server")
	ca := flag.String("ca", "", "PEM `file` of the authority of a server with TLS")
	token := flag.String("token", "", "bearer token of a server that asks for one")
	flag.Parse()
	texts := flag.Args()
	if len(texts) == 0 {
		fmt.Fprintln(os.Stderr, "usage: client [-target HOST:PORT] [-ca FILE] [-token TOKEN] TEXT...")
		os.Exit(2)
	}
	connection, err := connect(*target, *ca)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer connection.Close()

	ctx := context.Background()
	if *token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+*token)
	}
	request := &pb.PredictRequest{}
	for _, text := range texts {
		request.Inputs = append(request.Inputs, &pb.PredictInput{Text: text})
	}
	answer, err := ask(ctx, pb.NewPredictionServiceClient(connection), request)
	if err != nil {
		showError(err)
		os.Exit(1)
	}
	for i, prediction := range answer.Predictions {
		show(texts[i], prediction)
	}
}

// connect makes a channel, with TLS when there is an authority to trust.
func connect(target, ca string) (*grpc.ClientConn, error) {
	if ca == "" {
		return grpc.Dial(target, grpc.WithInsecure())
	}
	trust, err := credentials.NewClientTLSFromFile(ca, "")
	if err != nil {
		return nil, err
	}
	return grpc.Dial(target, grpc.WithTransportCredentials(trust))
}

// ask gives the answer. A server that is busy says when to come back; take it at its word once.
func ask(ctx context.Context, client pb.PredictionServiceClient, request *pb.PredictRequest) (*pb.PredictResponse, error) {
	answer, err := predict(ctx, client, request)
	hint, hinted := retryHint(err)
	if status.Code(err) != codes.ResourceExhausted || !hinted {
		return answer, err
	}
	showError(err)
	time.Sleep(hint)
	return predict(ctx, client, request)
}

func predict(ctx context.Context, client pb.PredictionServiceClient, request *pb.PredictRequest) (*pb.PredictResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	return client.Predict(ctx, request)
}

func retryHint(err error) (time.Duration, bool) {
	for _, detail := range status.Convert(err).Details() {
		if retry, ok := detail.(*errdetails.RetryInfo); ok {
			return retry.RetryDelay.AsDuration(), true
		}
	}
	return 0, false
}

// showError prints code, message and the details of google.rpc to stderr.
func showError(err error) {
	said := status.Convert(err)
	fmt.Fprintf(os.Stderr, "%s: %s\n", code.Code(said.Code()), said.Message())
	for _, detail := range said.Details() {
		switch detail := detail.(type) {
		case *errdetails.BadRequest:
			for _, violation := range detail.FieldViolations {
				fmt.Fprintf(os.Stderr, "  field %s: %s\n", violation.Field, violation.Description)
			}
		case *errdetails.RetryInfo:
			fmt.Fprintf(os.Stderr, "  retry after %.3f s\n", detail.RetryDelay.AsDuration().Seconds())
		}
	}
}

func show(text string, prediction *pb.Prediction) {
	decision := strings.ToLower(strings.TrimPrefix(prediction.Decision.String(), "DECISION_"))
	fmt.Println(text)
	fmt.Printf("  %s %.3f %s\n", prediction.Label, prediction.Probability, decision)
	for _, triple := range prediction.Evidence {
		fmt.Printf("  evidence    %.3f %s\n", triple.Relevance, triple.Text)
	}
	doubt := prediction.Uncertainty
	fmt.Printf("  model       agreement %.3f, mutual information %.3f\n",
		doubt.Model.Agreement, doubt.Model.MutualInformation)
	fmt.Printf("  sensitivity margin %.3f, covered %s\n", doubt.Sensitivity.Margin, yesNo(doubt.Sensitivity.Covered))
	fmt.Printf("  knowledge   coverage %.3f, links %.3f, conflicts %d, in the graph %s\n",
		doubt.Knowledge.Coverage, doubt.Knowledge.LinkConfidence, doubt.Knowledge.Conflicts,
		yesNo(!doubt.Knowledge.NotInGraph))
	fmt.Printf("  explanation triples %d, relevance up to %.3f\n",
		doubt.Explanation.EvidenceCount, doubt.Explanation.MaxRelevance)
}

func yesNo(said bool) string {
	if said {
		return "yes"
	}
	return "no"
}
