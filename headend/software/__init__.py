"""The package server: firmware and software packages with range requests, their descriptors, and reports on them."""
