"""A board that is switched on: the emulator, its disk and its jobs, power cuts."""
