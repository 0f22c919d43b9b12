"""Device code: the kernels, and what they share."""
