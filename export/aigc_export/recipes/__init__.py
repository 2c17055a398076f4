"""Configure an export: a recipe, its budget, its limits."""
