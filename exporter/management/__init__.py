"""What people do with connections, exports and runs."""
