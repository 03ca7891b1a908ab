"""Short verbs on nouns: hosts, guests as hypervisors see them, guest metadata, key pairs."""
