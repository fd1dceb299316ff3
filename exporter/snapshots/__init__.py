"""What Customer Insights wrote: blob paths, completeness, the frozen manifest."""
