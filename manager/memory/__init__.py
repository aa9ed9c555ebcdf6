"""Memory readings, and the peaks that the manager learns from them."""
