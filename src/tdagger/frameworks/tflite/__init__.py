"""TFLite: files in (:mod:`importer`) and out, by the flatbuffer schema that ai-edge-litert ships; no TensorFlow."""
