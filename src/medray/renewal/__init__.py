"""A model renewed: when there is a reason, from what it knows, and put in use only where that is better."""
