"""Real clients against the real stack (`make test-clients`)."""
