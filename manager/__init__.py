"""The worker manager: starts, watches, evicts and stops one worker process per model alias.

Rules: imports ``contracts`` and ``web``, never another tier (workers are started by argv). Decisions
are pure (``lifecycle``, ``planner``, ``readiness``, ``status``); ``pool`` and ``worker`` act on them;
only ``process`` touches processes and signals, only ``memory`` psutil, only ``logs`` the log files.
"""
