"""What the tiers agree on: settings, wire types, control types, errors.

Rules: imports nothing but the standard library, pydantic and pyyaml; does no I/O except reading the
settings file; every tier may import it, and it imports no tier.
"""
