"""SSMP on the device: where its long-term secret is kept, and how it registers with it (docs/ssmp.md)."""
