"""Where frames come from, and how they are cropped."""
