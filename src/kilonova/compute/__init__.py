"""Compute (Nova v2.1): servers, and what they need: flavors, key pairs, quota, hosts.

Read in this order: model, states, routes, api/servers.py, ops/create.py (the longest verb, from request to running guest),
scheduler/, agent/, store/ (two sides that never share a transaction: `api` and `cell`), service.py. Others see contract.py only.
"""
