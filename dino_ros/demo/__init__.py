"""The demo: a recording through the real camera node and the real perception node, over DDS, into pictures and numbers."""
