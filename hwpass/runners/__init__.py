"""What runs a model and says how long it took: ONNX Runtime, OpenVINO, ncnn, or any device by a command."""
