"""Running models with ONNX Runtime: sessions, inputs, calibration data."""
