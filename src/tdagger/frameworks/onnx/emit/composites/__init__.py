"""How composites are written as ONNX: a file for each kind, all in one table."""
