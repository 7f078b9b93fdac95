"""Settings: their groups and checks, and presets."""
