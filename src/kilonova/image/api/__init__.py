"""Handlers: decode, call, view."""
