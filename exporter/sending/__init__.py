"""Batches to import jobs, and what became of each."""
