"""Scores against ground-truth objects: attention masks, the node's masks, objects tracked through videos."""
