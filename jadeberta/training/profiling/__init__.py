"""A look into a few steps of a run that trains, on request."""
