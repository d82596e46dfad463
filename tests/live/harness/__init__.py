"""What the live tests and the bench start: real servers, rounds in this process, and blows."""
