"""The package server: firmware and software packages with ranges, their descriptors, and the reports about them."""
