"""What can go wrong with keys and sealed values, sans-IO. No message holds a key or a secret."""

from __future__ import annotations


class SealingError(Exception):
    """Secrets cannot be sealed, or opened."""


class KeySourceError(SealingError):
    """The file or token with the key-encryption keys cannot be used: the message names it, and says why."""


class KeyFileModeError(KeySourceError):
    """Others than its owner may read or write the file."""


class KeyMissingError(KeySourceError):
    """A key-encryption key that the database needs is not there, or there is none at all."""


class WrongKeyError(KeySourceError):
    """A data key cannot be unwrapped: the key-encryption key of that name is another one."""


class DataKeyMissingError(SealingError):
    """A value was sealed under a data key that the database does not hold, or there is none to seal with."""


class SealedValueError(SealingError):
    """A value is no sealed one, was changed, or belongs elsewhere. It concerns that value only."""
