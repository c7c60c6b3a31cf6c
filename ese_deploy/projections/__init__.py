"""Linear projections of exits: the file format, PCA, and ridge regression onto the full model."""

__all__: list[str] = []
