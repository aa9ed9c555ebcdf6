"""One module per way of preprocessing: models with a chat template, and Moondream2."""
