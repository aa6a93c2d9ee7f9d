"""The Update Agent: A/B updates that cannot brick. Runs at boot, before and without the agent."""

__version__ = "0.1.0"
"""What a package's "minimum agent version" is compared with."""
