"""SSMP: how a device with factory data alone proves itself to the security server and gets its DM account.

The wire format is this project's own and is written down in `docs/ssmp.md`. `wire` holds the messages, `crypto` the
keys and proofs, `client` and `server` the two sans-IO cores; `client.register` drives the client over HTTPS.
"""
