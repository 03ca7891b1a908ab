"""Long verbs, one file each: `begin` inside the request (decide, claim, write the intent), then `run` and `recover` with nothing but the
stored operation. verbs.py has what they share."""
