"""The security server: knows the device keys, speaks SSMP, and hands out DM accounts."""
