"""The line itself: from a recipe to a bundle."""
