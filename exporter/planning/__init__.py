"""What to send: rows checked, duplicates found, batches filled."""
