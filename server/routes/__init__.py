"""What the server answers to, one module a surface."""
