"""What probes predict from frozen features: the values of another topic of the bag."""
