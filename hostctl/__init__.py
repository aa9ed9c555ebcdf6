"""The stack on its host: install, uninstall, services, status, doctor, smoke test.

Rules: what is to be done is decided in pure functions over facts and is a list of steps
(``hostctl.steps``), which ``DRY_RUN=1`` prints; what is the case is read in ``hostctl.machine`` and
``hostctl.facts``. Whatever runs before ``.venv`` is there needs nothing but the standard library; the
rest (units, status, doctor, smoke, weights) imports the settings. Nothing here serves a request.
"""
