"""What a training run tells of itself: health bands and sample images."""
