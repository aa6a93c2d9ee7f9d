"""The long-running daemon of a smart-metering data concentrator."""
