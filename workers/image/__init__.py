"""The image worker: routes, jobs, the mflux engine and its steps. ``families`` holds one adapter per
model family.
"""
