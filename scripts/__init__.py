"""Scripts behind the make targets, and for CI and releases."""
