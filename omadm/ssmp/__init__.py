"""SSMP: how a device that has only factory data authenticates to the security server and gets its DM account.

The protocol is this project's own, and is described in `docs/ssmp.md`. `wire` has the messages, `identity` what
is asked of the place of the secret, `crypto` the keys and proofs, `client_core` and `server_core` the two sans-IO
cores. The driver of the client is `agent.ssmp.registration`.
"""
