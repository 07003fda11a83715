"""What survives a restart; the only home of SQL."""
