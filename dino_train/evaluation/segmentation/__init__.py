"""Scores on outlined objects: attention masks, the masks of the node, objects followed through videos."""
