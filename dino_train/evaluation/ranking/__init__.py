"""Scores of ranked databases: place recognition and copy detection."""
