"""Pictures of a view that need no browser: SVG, PNG, DOT, Mermaid, trees of text. Drawn from its JSON alone."""
