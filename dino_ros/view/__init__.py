"""One page in a browser on what a student sees: of a recording, or of a running node."""
