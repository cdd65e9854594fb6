"""Recipes: the keys of a run, and what is checked before it begins."""
