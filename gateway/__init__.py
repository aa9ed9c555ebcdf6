"""The public API. Imports contracts and web, and no other tier; holds no model and no model state.

Rules: a request is checked here before anything is loaded for it. Then its bytes go to the manager.
"""

SOURCE = "gateway"  # this tier's name in errors and logs
