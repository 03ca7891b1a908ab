"""Placement: who has how much of what, and who uses it. Providers hold inventories of resource classes; consumers hold allocations of them.

Read in this order: contract, model, routes, domain/allocations.py (claims: one conditional UPDATE for each class), domain/candidates.py
(a pure function of a snapshot), domain/inventories.py, domain/providers.py, store/, api/ (one file per resource), service.py.
"""
