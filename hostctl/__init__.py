"""The stack on its host: install, uninstall, services, status, doctor, smoke test.

Rules: ``hostctl.machine`` and ``hostctl.facts`` read the facts; pure functions turn them into a list of
steps (``hostctl.steps``), which ``DRY_RUN=1`` prints. Modules that run before ``.venv`` exists use only
the standard library; the others (units, status, doctor, smoke, weights) import the settings. Nothing
here serves requests.
"""
