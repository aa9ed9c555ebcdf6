"""What tests and benchmarks share: stacks, servers, fakes, tiny checkpoints."""
