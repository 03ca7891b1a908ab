"""Attacks on the whole cloud in process. Names carry the row of docs/security.md."""
