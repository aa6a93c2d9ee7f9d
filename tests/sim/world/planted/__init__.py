"""The faults that collection once had, planted again."""
