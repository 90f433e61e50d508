"""Importers and exporters, one folder a framework; a framework is imported only inside its own folder."""
