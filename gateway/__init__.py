"""The public API. Imports contracts and web, and no other tier; holds no model and no state of one.

Rules: a request is checked here before anything is loaded for it, then its bytes go to the manager.
"""
