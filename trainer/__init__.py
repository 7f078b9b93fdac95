"""Fine-tuning on labelled shards: objectives, the stream of rows, the loop, checkpoints."""
