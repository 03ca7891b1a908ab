"""Ours beside OpenStack's own Keystone, Glance and keystonemiddleware. `make test-peers` runs these, `make test` does not."""
