"""Device code, and the tuples in which a call reaches it."""
