"""People of one application, who are erased."""
