"""Fakes of whole processes, and of the engine."""
