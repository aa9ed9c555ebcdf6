"""Entry points of the Makefile: set-up, and a stack of local processes."""
