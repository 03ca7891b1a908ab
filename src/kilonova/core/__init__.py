"""Machinery without nouns: nothing here knows a server, a port or an image.

Read in this order: runtime (the seam to clock, chance and threads), errors, context, http, routing, edge (one request from
socket to handler and back), db (statements, group commit), tasks, bus, operations (long verbs as rows), undo, policy, config.
"""
