"""Networks in numbers of few bits: docs/quantization.md."""
