"""The layers of the older neural networks (``neuralNetwork`` in a ``.mlmodel``), by the rules of MIL's ops."""
