"""From prepared cases to weights. Imports no registry and no HTTP: a job or the CLI composes them."""
