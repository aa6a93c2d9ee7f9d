"""The long-running daemon of a smart-metering data concentrator."""

__version__ = "0.1.0"
"""Reported as the software version (DevDetail/SwV); setup.py says the same."""
