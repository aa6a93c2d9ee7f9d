"""xDLMS APDUs, one module a service: frozen messages with `emit`, and a parser for each direction (GB 9.5)."""
