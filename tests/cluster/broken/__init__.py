"""What one application goes through that loses its parts, its store and its archive."""
