"""Disentangled attention: the module, and the implementations it dispatches to."""
