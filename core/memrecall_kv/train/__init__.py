"""Training of every learned part."""
