"""Networks by name: a spec that a plan carries, and the one function that builds it."""
