"""How good is it: measures on arrays. Knows nothing of models or files."""
