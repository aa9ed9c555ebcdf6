"""Fuzzing of everything that reads what others wrote: ``make fuzz MINUTES=n`` (docs/dev/security.md).

Inputs are changed at random; those that reach a line that none before has reached are kept and changed
further. Rules: one input is bytes, and alone decides what happens, so that a file is a reproducer; a
target raises for a finding and returns for everything else; time and randomness are parameters.
Own code, as fuzzers for Python come with a compiler, or for Linux alone.
"""
