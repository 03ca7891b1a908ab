"""Identity's short verbs: tokens, effective roles, passwords, catalog, start-up data."""
