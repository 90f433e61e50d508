"""Networks in files, ``.tdag``: one safetensors file whose metadata holds the graph (docs/format.md)."""
