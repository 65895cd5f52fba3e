"""Objects that were shown, found again in other images by a student's features."""
