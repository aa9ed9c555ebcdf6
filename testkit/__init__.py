"""Code that tests and benchmarks share: stacks, servers, fakes, tiny checkpoints."""
