"""The methods, one room each."""
