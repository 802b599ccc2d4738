"""What runs to its end: one module a stage, and the command line."""
