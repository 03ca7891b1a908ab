"""One file per REST resource: decode, call, view."""
