"""PyTorch: importer, exporter."""
