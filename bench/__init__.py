"""Measurements of the real tiers: ``python -m bench.overhead`` says what the two hops cost.

Rules: what is compared is measured in the same run, in turn, several rounds of it, and told with its
spread; the load comes from a process of its own; the model is a stand-in, the tiers are the real ones.
"""
