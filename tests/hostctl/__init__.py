"""Installing: the pure plans, and the real thing under a real systemd."""
