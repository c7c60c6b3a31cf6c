"""Load on an embeddings server: an open-loop generator, and plots of latency against load."""
