"""The interfaces between the tiers: settings, wire types, control types, errors.

Rules: import only the standard library, pydantic and pyyaml; no I/O except reading the settings file;
every tier may import this package, and it imports no tier.
"""
