"""What a backend imports: recording from inside its own process."""
