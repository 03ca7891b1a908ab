"""One file per resource: decode, call, view."""
