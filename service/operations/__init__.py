"""What an operator does: bootstrap, policies, inspection, the doctor."""
