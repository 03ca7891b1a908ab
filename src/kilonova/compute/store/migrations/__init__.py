"""Two histories, since the api side and a cell may lie in different databases."""
