"""The operation and its implementations: `falloff.attention` is `api.attention`."""
