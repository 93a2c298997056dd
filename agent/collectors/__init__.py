"""Where samples come from: the host, processes, scraped targets."""
