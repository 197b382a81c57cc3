"""Small cohorts with a known truth, made from real anatomy with simulated variation. The product never needs them."""
