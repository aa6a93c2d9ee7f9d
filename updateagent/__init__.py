"""The Update Agent: A/B updates that cannot brick. Runs at boot, before and without the agent."""

__version__ = "0.2.0"
"""The version of everything in this repository: setup.py reads it from this line, the agent reports it (DevDetail/SwV),
and what a package asks for (`requires.agent`) is compared with it."""
