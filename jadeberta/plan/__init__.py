"""`jadeberta plan`: what a recipe will cost on a cluster, and how often to save."""
