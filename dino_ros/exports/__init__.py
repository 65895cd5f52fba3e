"""Recordings to files that other programs read: labels for a detector, features for a policy."""
