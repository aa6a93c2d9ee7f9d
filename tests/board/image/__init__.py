"""The system of the board, built from Debian's packages and this repository."""
