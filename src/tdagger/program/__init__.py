"""Programs: several TDAGs and the control flow between them (docs/programs.md)."""
