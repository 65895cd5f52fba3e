"""Scores on folders of labeled classes: k-NN and linear classification."""
