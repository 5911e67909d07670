"""What a person types: one file per command. Heavy imports stand inside the functions that need them."""
