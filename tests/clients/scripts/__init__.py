"""One script for each client; it runs in an environment of that client."""
