"""N and N−1 in one cloud: `make test-upgrade`."""
