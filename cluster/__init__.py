"""Where nodes come from and how a job starts on them."""
