"""Measurements of the real tiers and engines beside peers: ``python -m bench`` (``make bench``).

Rules: what is compared is measured in the same run, in turn, several rounds of it, and told with its
spread. A benchmark's module gives ``Found`` (``bench.results``); ``bench.markdown`` and ``bench.plots``
show it. Loads come from processes of their own.
"""
