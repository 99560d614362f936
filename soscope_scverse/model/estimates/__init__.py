"""What is estimated from the spots before and after training."""
