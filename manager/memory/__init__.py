"""Readings of memory and what the manager learns from them."""
