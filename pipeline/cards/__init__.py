"""README files for the hub: the dataset card, the model card, and what both tell of labels."""
