"""Secrets of the database encrypted at rest: data keys seal them, key-encryption keys of a file or token wrap those."""
