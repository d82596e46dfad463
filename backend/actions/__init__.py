"""What a person may ask for (connect, disconnect, roll back, retrain, pause, resume);
commands may import it."""
