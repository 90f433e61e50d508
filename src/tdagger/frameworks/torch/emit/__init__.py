"""Going back: generated code, modules, files."""
