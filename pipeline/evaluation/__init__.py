"""Base and tuned model compared: same prompts, same seeds, every reward model."""
