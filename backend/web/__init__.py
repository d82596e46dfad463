"""Label Studio calls us: the HTTP app, its login and hooks; nothing else here may import it."""
