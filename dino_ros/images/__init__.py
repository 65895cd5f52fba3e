"""Images: what decodes them, where they come from, and what is drawn over them."""
