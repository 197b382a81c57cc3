"""One way from an image to a result, for validation, batch, serving and benchmarks."""
