"""What to export and how: a recipe, its budget, its limits."""
