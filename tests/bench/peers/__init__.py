"""The same work done by other people's stacks, each in an environment of its own; see `tests.bench.dlms`."""
