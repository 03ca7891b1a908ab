"""The metadata service: what a guest reads of itself at 169.254.169.254. An adapter; it owns no tables.

Read in this order: tree (paths, listings), service (who is asking, and the cache), app (the form with a signing proxy, port 8775).
A guest is known by the network it came in on and by its source address, never by what it says of itself.
"""
