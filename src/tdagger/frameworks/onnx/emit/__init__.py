"""Writing networks as ONNX: a row for each core op, a row for each composite that ONNX has an operator for."""
