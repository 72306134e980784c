"""What keeps one part's trouble from becoming everybody's: limits, budgets, breakers."""
