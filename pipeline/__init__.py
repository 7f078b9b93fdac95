"""From prompts to scores and labels, and from the tuned model to the report."""
