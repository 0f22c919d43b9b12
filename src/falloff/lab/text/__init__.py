"""What models are trained and tested on: files, datasets, tokenizers, and tokens on disk."""
