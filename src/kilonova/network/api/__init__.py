"""Handlers of the REST API, one file per resource."""
