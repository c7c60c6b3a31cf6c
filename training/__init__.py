"""Thin scripts that train and evaluate checkpoints from a checkout with ``python -m``."""
