"""Active learning simulated, measured and reported; only the command line may import it."""
