"""Races: recipes against each other at equal FLOPs, to see what each ingredient gives."""
