"""Labels by many people: added, never overwritten."""
