"""A tiny world in which a whole fusion runs on two CPU cores in minutes."""
