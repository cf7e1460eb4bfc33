"""The recipes of RELIANT: a teacher, and students distilled from one."""
