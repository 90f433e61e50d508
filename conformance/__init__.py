"""Opt-in sweeps that hold tdagger to what others have: torch's ops, timm's and transformers' models."""
