"""Label Studio calls us: the HTTP app, its login and hooks; commands may import it."""
