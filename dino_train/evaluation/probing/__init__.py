"""What a probe reads out of frozen features: the values of another topic of the bag."""
