"""An emulated ARM board: real U-Boot, a real kernel, real block and flash devices under our own programs.

`docs/board.md` says what is emulated, how to run it, and what was measured.
"""
