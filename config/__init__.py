"""Settings: one model per section, loaded with every mistake at once."""
