"""The campaign that chose the default recipe: what is compared is in protocol.toml."""
