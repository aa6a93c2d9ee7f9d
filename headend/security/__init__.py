"""The security server: holds the device keys, serves SSMP, and issues DM accounts."""
