"""How the documentation is made: `python -m making`, with docs/ on Python's path, as `make docs` does."""
