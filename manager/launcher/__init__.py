"""Starts processes: workers, standby workers and downloads."""
