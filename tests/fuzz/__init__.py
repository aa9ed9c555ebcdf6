"""Fuzzing of all code that parses foreign input: ``make fuzz MINUTES=n`` (docs/dev/security.md).

Inputs are mutated at random; an input that reaches a new line is kept and mutated further. Rules: an
input is bytes, and the bytes alone decide what happens, so that a file is a reproducer; a target raises
for a finding and returns otherwise; time and randomness are parameters. The fuzzer is our own, because
fuzzers for Python need a compiler or run on Linux only.
"""
