"""The recipes: a configuration and a loop each."""
