"""Who says whether a world went right: what is at the head-end in the end, and what the device said meanwhile."""
