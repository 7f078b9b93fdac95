"""The embedded world: scenes, renderer, judge, simulated raters, and the builder of its models."""
