"""The demo: a small world with exact truths, checkpoints trained on it, and judges for both.

Nothing in the product imports this package.
"""
