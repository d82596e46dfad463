"""What a person may ask for: connecting a project and disconnecting it; commands may import it."""
