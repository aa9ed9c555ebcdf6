"""Tests: a folder for each package, and one for the whole stack."""
