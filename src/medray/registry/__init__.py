"""Models by name, version and alias, each with a card that says what it is for and where it came from."""
