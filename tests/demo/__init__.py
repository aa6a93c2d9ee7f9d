"""The demonstration: a data concentrator's whole life, on one machine, with real processes, sockets and files."""
