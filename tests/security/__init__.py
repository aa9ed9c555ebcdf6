"""Attacks by strangers, over real sockets or against the code that they target."""
