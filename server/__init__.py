"""The HTTP server: an image and a question go in, the best answer comes out with its scored steps."""
