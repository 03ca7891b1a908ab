"""The Linux network dataplane: bridges, VXLAN, namespaces and nftables, driven by netlink from this process.

Read `driver.py` first. Pure parts, which say what shall be: `security_groups.py`, `routers.py`, `services.py`. Parts that make
it so: `namespaces.py` (routers, DHCP), `netns.py`, `rtnl.py`, `nft.py`, `conntrack.py`, `tap.py`. Parts that answer guests:
`dhcp.py`, `metadata.py`, `ra.py`. The reasons are in docs/internals/dataplane.md.
"""
