"""Kilonova: a whole OpenStack-compatible cloud in one package. Start at app.py, which wires every service."""

__version__ = "0.1.0"
