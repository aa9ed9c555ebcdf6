"""The demo: a small synthetic world with exact ground truth, checkpoints trained on it, and judges.

Nothing in the product imports this package.
"""
