"""Weights on disk: ours, other people's, and ONNX."""
