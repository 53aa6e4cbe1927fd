"""What happens when inputs are broken, and how often: counts, not seconds."""
