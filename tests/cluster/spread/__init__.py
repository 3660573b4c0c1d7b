"""What one application goes through that has several learners, on a store of several servers."""
