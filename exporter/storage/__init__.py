"""Where bytes and secrets live: our state, the snapshots, the work queue, the keys."""
