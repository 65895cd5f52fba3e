"""Scores on folders of labelled classes: k-NN and linear classification."""
