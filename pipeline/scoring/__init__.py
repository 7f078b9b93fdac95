"""Stage one, what makes scored shards: from prompts, on one machine or many, or from ratings."""
