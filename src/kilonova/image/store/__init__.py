"""Rows: tables and statements."""
