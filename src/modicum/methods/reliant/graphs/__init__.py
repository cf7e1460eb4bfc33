"""A graph of people: what it is, who passes messages, and its parts on several processes."""
