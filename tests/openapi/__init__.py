"""The OpenAPI document is complete and correct, and its examples work."""
