"""What lies on disk: shards, manifests, locks, fingerprints, and their checks."""
