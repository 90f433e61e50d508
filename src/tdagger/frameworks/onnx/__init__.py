"""ONNX files to networks, and networks to ONNX files."""
