"""What runs on the board: start scripts of its image, and programs that the tests bring on a second disk."""
