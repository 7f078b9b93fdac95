"""The page on which people rate: what is asked, what was answered, and the local server."""
