"""What targets do on a GPU, beside PyTorch and the GPU's own limit: python -m benchmarks.gpu --help."""
