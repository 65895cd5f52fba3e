"""Evaluations of encoders: classification, ranking, segmentation, probing, and pictures to look at."""
