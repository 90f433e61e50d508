"""What is in an ONNX file: read, checked, and told."""
