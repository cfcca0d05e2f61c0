"""The runner's old address, kept until 0.2 for scripts that import from it: use `safesteer_interp.runner`."""
