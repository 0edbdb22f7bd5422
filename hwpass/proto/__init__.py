"""ONNX protobufs: what they say, in one form, and how they are written."""
