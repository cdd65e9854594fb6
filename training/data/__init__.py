"""Rows of problems, chains and pairs: read, checked, split, mixed and turned into samples."""
