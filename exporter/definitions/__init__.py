"""What people have set up: connections, exports, mappings, schedules."""
