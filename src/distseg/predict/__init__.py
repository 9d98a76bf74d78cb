"""Using an exported file: masks, run lengths, submissions and their score."""
