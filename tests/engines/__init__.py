"""Real servers that tests start for themselves, on loopback, with data of their own, as an unprivileged user."""
