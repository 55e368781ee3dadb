"""Models of any kind and vocabulary measured on the same raw texts, and set beside each other."""
