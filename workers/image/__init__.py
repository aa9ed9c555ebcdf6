"""The image worker: routes, jobs, responses, the mflux engine and its steps. ``families`` has one
adapter for each group of models.
"""
