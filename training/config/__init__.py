"""Recipes: what a run is told, and what is checked before it begins."""
