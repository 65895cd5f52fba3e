"""Reading, selecting and cropping images."""
