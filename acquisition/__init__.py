"""Which image next: pure mathematics on probabilities, arrays in and arrays out."""
