"""Bytes explained to people: frames, wrapper headers, APDUs and values as a tree, for `dlms decode`."""
