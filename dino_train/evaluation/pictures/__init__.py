"""What an encoder sees, drawn for a person to look at."""
