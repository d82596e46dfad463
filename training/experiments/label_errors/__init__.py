"""How well wrong labels are found: errors are planted in labelled folders and searched for."""
