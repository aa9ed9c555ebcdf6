"""The API description is complete and true, and its examples work."""
