"""`jadeberta publish-metrics`: one clean run out of all attempts, in the viewers that people use already."""
