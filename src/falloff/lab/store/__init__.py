"""The folder of a comparison: what is written, how damage is found, and what a result says."""
