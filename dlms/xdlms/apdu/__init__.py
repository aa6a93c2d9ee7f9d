"""xDLMS APDUs, one module per service: frozen messages with `emit`, and a parser for each direction (GB 9.5)."""
