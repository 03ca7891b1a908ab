"""Short verbs on nouns, one file per noun; ipam, subnet_pools and topology are pure."""
