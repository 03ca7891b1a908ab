"""Short verbs on placement's nouns. Functions that take a Transaction are parts of one; candidates and filters are pure."""
