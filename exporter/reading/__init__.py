"""Bytes of a partition to clean records, each with its line."""
