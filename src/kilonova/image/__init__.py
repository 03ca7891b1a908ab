"""The image service (Glance v2): what servers boot from, who may see it, and its bytes.

Read in this order: model, states, routes, domain/uploads.py (how bytes come in and survive a crash), domain/access.py (who sees
what), api/ (one file per resource), store/ (rows), drivers/ (bytes), service.py. Other services see contract.py only.
"""
