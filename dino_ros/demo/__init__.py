"""The demo: a recording goes through the real nodes over DDS, and comes out as images and numbers."""
