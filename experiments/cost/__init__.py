"""What reads cost, measured apart from any run, and what follows: predicted speed-ups, best gamma, energy by source."""
