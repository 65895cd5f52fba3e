"""Scores of what was learnt."""
