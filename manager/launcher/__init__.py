"""Starts processes: workers, standby workers, downloads."""
