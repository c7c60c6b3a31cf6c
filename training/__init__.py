"""Scripts that train and evaluate checkpoints, run from the checkout with ``python -m``."""
