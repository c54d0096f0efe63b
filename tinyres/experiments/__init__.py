"""Published experiments on residual networks, in miniature: each one function that returns one result."""
