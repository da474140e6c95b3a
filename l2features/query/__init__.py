"""Read path: cached rows, and their JSON and Arrow forms."""
