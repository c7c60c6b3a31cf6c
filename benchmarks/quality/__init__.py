"""Compares training variants, as protocol.toml says; the presets come from its results."""
