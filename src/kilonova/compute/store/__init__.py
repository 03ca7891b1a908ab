"""Compute's store has two sides: `api` (flavors, key pairs, quota, build requests, where each server lives) and `cell` (servers and what
hangs on them, hosts). No join and no transaction crosses them: each cell may be a database of its own."""
