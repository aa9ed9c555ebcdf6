"""Benchmarks of the tiers and engines against peers: ``python -m bench`` (``make bench``).

Rules: a comparison measures both sides in the same run, alternately, over several rounds, and reports
the spread. Each benchmark module returns ``Found`` (``bench.results``); ``bench.markdown`` and
``bench.plots`` render it. Load generators are separate processes.
"""
