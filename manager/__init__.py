"""The worker manager: loads, watches, evicts and unloads one worker process per model alias.

Rules: imports ``contracts`` and ``web``, never another tier; workers are separate programs. Decisions
are pure (``lifecycle``, ``planner``, ``idle_unload``, ``readiness``, ``watchdog``, ``status``). Calls
go one way, ``pool`` to ``worker`` to ``worker_run``; a run yields facts to its worker
(``worker_facts``). Only ``launcher`` deals with processes and signals, only ``memory`` with readings,
only ``logs`` with log files.
"""
