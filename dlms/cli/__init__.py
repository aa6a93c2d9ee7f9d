"""The commands of the `dlms` tool; `dlms.__main__` puts them together."""
