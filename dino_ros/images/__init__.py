"""Images: decoding and resizing them, reading them from recordings, drawing over them."""
