"""Several models with several seeds: the plan, the numbers, the findings, the page."""
