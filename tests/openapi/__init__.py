"""The description of the API: that it is whole, that it is true, and that its examples work."""
