"""Models behind HTTP on Ray Serve. Knows no loss function and no training."""
