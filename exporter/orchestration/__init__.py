"""Moves a run along, from a message to the next."""
