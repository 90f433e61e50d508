"""CoreML: ``.mlpackage`` and ``.mlmodel`` files, read and written; docs/coreml.md."""
