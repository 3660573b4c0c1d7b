"""What one application goes through whose replicas come and go."""
