"""Short verbs on images, without HTTP."""
