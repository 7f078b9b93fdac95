"""What leaves the project: exported models and their cards."""
