"""The ONNX model in memory, read and checked."""
