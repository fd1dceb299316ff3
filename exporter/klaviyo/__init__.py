"""The other side: requests, answers, limits."""
