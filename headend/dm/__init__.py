"""The DM server: OMA DM 1.2 sessions, accounts, jobs, notifications (docs/dm.md)."""
