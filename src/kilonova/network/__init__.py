"""Network (Neutron v2.0): networks, subnets, ports, routers, floating IPs, security groups, and what each host shall realise of them.

Read in this order: model, contract.py (what compute asks), api/attributes.py (the tables of attributes), routes.py, api/ (one file per
resource), domain/ipam.py (addresses), domain/ (one file per noun), domain/topology.py (rows -> desired state of each host), rpc.py,
agent/ (what runs on a host), service.py (wiring). Rows are the truth; agents are brought to it.
"""
