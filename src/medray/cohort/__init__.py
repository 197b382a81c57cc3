"""A dataset on disk: volumes, labels, manifest and quarantine, versioned by content."""
