"""Clouds of several real processes over a real database and a real broker."""
