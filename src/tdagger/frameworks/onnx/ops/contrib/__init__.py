"""Rules of onnxruntime's own operators, the domain com.microsoft: what its optimizer and exporters write into files."""
