"""One module per kind of preprocessing: models with a chat template, and Moondream2."""
