"""Many trials at once, by Ray."""
