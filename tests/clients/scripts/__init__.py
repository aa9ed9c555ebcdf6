"""One script per client; it runs in that client's environment."""
