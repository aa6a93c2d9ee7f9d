"""Programs that run other people's DLMS stacks, each in an environment of its own; see `test_interop`."""
