"""The demo: plays a recording through the real nodes over DDS, and writes images and numbers."""
