"""Identity (Keystone v3): who is who, who may what, and where the services are.

Read in this order: model, routes, api/ (one file per resource), domain/tokens.py (how a token is made and checked), domain/grants.py
(effective roles), store/, service.py (wiring, bootstrap). Other services see contract.py only.
"""
