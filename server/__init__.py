"""The gRPC server: ONNX Runtime, dynamic batching, grounded predictions with uncertainty."""
