"""Stand-ins for whole processes."""
