"""Choosing a host: a pure function of a snapshot. Whoever commits (placement's claim) checks again, so a lost race is a retry.

snapshot.py holds the hosts as columns (NumPy), filters/ answer with a mask and, when asked, a reason for each host they refuse;
weighers/ rank what is left. `choose` below puts them together.
"""
