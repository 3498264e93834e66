"""Models of every framework as torch callables."""
