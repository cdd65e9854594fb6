"""Verification: PRM formats, each of which turns a chain into a prompt, has it read, and returns a score."""
